/*
 * queue_command.h
 *		Messages that are commands of sagas: answered, and acknowledged only where an event answers them.
 */
#ifndef ES_QUEUE_COMMAND_H
#define ES_QUEUE_COMMAND_H

#include "utils/jsonb.h"
#include "utils/uuid.h"

struct EsMessageReceipt;

/* whose a command is */
typedef struct EsCommand
{
	bool is_one; /* false: the message is no command */
	pg_uuid_t saga_id;
	int parent;
	int seq;
	const char *tenant;
	bool was_had; /* somebody may have had it: it failed, or was sent before what is known of that */
} EsCommand;

/* settles it as an acknowledgement does.  Sets stale or, unless it waits, is_busy, or fills *command; 22023 where the message is none */
extern void es_queue_settle_command(struct EsMessageReceipt *receipt, bool waits, EsCommand *command);
/*
 * A command, or a timer, of that tenant's saga is not wanted any more.  True: it is gone, and nobody has ever had it.  False: somebody has or
 * had it, or it is not there; then, with takes_away, his receipt does not hold any longer and the message is gone as well, unless he is
 * settling it right now.  Waits for nobody
 */
extern bool es_queue_withdraw(int32 queue_id, const char *tenant, int64 message_id, bool takes_away);
/* n of one queue; results has room for as many */
extern void es_queue_withdraw_all(int32 queue_id, const char *tenant, const int64 *ids, int n, bool takes_away, bool *results);

/* after that: is it there all the same, because a transaction settles it, or took it? */
extern bool es_queue_is_left(int32 queue_id, int64 message_id);
/* is such a message there, committed or of this transaction, whoever has it? */
extern bool es_queue_is_there(int32 queue_id, int64 message_id);

/* an answer to a command, by a receipt that need not hold any more */
typedef struct EsAnswer
{
	const char *receipt;
	bool is_success;
	Jsonb *output; /* of a success; NULL: null */
	const char *error; /* of a failure */
	const char *cause;
	bool is_final;	   /* not to be tried again */
	double retry_after; /* s; < 0: not said */
} EsAnswer;

/* in a layer above: what became of it, "accepted", "late" or "duplicate" */
typedef const char *(*EsAnswerHook)(const EsAnswer *answer);
extern void es_queue_register_answer_hook(EsAnswerHook hook);
extern const char *es_queue_answer(const EsAnswer *answer);

/* in a layer above: may a command be acknowledged, because it is answered by something else than who has it? */
typedef bool (*EsAcknowledgeHook)(const EsCommand *command);
extern void es_queue_register_acknowledge_hook(EsAcknowledgeHook hook);
extern bool es_queue_may_acknowledge(const EsCommand *command);

/* in a layer above: was it the command of a step that its saga does not wait for any more? */
typedef bool (*EsUnwantedHook)(int32 queue_id, int64 message_id);
extern void es_queue_register_unwanted_hook(EsUnwantedHook hook);
extern bool es_queue_is_unwanted(int32 queue_id, int64 message_id);
/* in a layer above: whose command the message was, which is gone; false: nobody's */
typedef bool (*EsFindCommandHook)(int32 queue_id, int64 message_id, EsCommand *command);
extern void es_queue_register_find_command_hook(EsFindCommandHook hook);
extern bool es_queue_find_command(int32 queue_id, int64 message_id, EsCommand *command);

/* what became of a command without anybody's answer */
typedef struct EsCommandEnd
{
	bool is_done;	   /* an endpoint has taken it */
	Jsonb *output;	   /* then: what is known of its answer */
	bool is_pushed;	   /* its queue has an endpoint */
	bool is_rejected;  /* it is not to be tried again */
	const char *error; /* why it was given up or rejected */
} EsCommandEnd;

/* in a layer above: called in the transaction in which that is so */
typedef void (*EsCommandHook)(const EsCommand *command, const EsCommandEnd *end);
extern void es_queue_register_command_hook(EsCommandHook hook);
/* what of a command is in the columns of its message; false: it is none */
extern bool es_queue_tell_command_ended(const EsCommand *command, const EsCommandEnd *end);

#endif
