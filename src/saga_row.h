/*
 * saga_row.h
 *		Within sagas only: the rows of instances and their steps.
 */
#ifndef ES_SAGA_ROW_H
#define ES_SAGA_ROW_H

#include "datatype/timestamp.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

#include "saga_version.h"

typedef enum EsSagaStatus
{
	ES_SAGA_RUNNING,
	ES_SAGA_COMPENSATING,
	ES_SAGA_STUCK,
	ES_SAGA_PAUSED,
	/* it has ended */
	ES_SAGA_SUCCEEDED,
	ES_SAGA_COMPENSATED,
	ES_SAGA_FAILED,
	ES_SAGA_CANCELLED
} EsSagaStatus;

#define ES_SAGA_HAS_ENDED(status) ((status) >= ES_SAGA_SUCCEEDED)

/* everything is allocated in the context of the transition */
typedef struct EsSaga
{
	pg_uuid_t id;
	int32 definition_id;
	int version;
	int last_seq;
	int last_ended;
	bool has_pivot;
	int64 timer_id;		   /* 0: none */
	TimestampTz timer_due; /* 0: none */
	TimestampTz deadline;  /* 0: none */
	TimestampTz started_at;
	TimestampTz ended_at; /* 0: it has not ended */
	EsSagaStatus status;
	EsSagaStatus ending; /* of compensation: COMPENSATED or CANCELLED; FAILED: it is not compensated, whatever comes */
	char *reason;		 /* NULL: none; the same for all texts */
	char *tenant;
	char *business_key;
	char *error;
	char *cause;
	Jsonb *input;
	Jsonb *output; /* NULL: none */
	Jsonb *metadata;
	/* of a child; parent_seq 0: it is none */
	pg_uuid_t parent_id;
	int parent_parent; /* the step that is told when it has ended, */
	int parent_seq;
	bool is_taken_back; /* which is the undo of the one that started it */
	bool has_lock; /* it has asked for a semantic lock */
	EsSagaStatus resumes; /* of one that is paused: its status before and after */
} EsSaga;

typedef enum EsStepKind
{
	ES_STEP_START, /* waits for the time at which the instance is to begin */
	ES_STEP_TASK,
	ES_STEP_WAIT,
	ES_STEP_UNDO,
	ES_STEP_SIGNAL,
	ES_STEP_PARALLEL,
	ES_STEP_MAP,
	ES_STEP_BRANCH, /* of a Parallel, or an item of a Map */
	ES_STEP_STOP, /* where it is stuck */
	ES_STEP_CHILD, /* a saga of its own; its id follows from that of this one and seq */
	ES_STEP_EVENT /* of a reactor */
} EsStepKind;

/* a stop at a pivot of which nobody knows, where the instance was to be undone: cancelled, or its time was over */
#define ES_STOP_TO_UNDO 1

typedef enum EsStepStatus
{
	ES_STEP_WAITING,
	ES_STEP_PENDING, /* an item that has not begun */
	ES_STEP_DONE,
	ES_STEP_FAILED,
	ES_STEP_UNKNOWN,   /* it may have happened, or happen yet */
	ES_STEP_WITHDRAWN, /* taken back before anybody had it */
	ES_STEP_UNDONE,
	ES_STEP_SKIPPED, /* a person said so: there is nothing to undo */
	ES_STEP_UNDOING	 /* of a Parallel, a Map or a branch: what was done in it is being undone */
} EsStepStatus;

typedef struct EsStep
{
	int parent;
	int seq;
	int above;
	int place; /* of a branch: which; of a Map: seq of the last item that has begun; of a stop: ES_STOP_TO_UNDO, or 0 */
	int first_seq;
	int undoes;
	int attempt;
	int32 queue_id;	  /* 0: no command */
	int64 message_id; /* 0: no command */
	int ended;		  /* 0: it has not */
	int open;		  /* of a Parallel or Map: branches that have not ended */
	int failed;		  /* of these, those whose failure is tolerated; of an event, how often it failed */
	TimestampTz due;  /* 0: it waits for no time */
	TimestampTz deadline; /* when its time is over, where due is a look before that; 0: due is */
	double heartbeat;	  /* s; 0: none */
	char *resource;		  /* the semantic lock that it has, or waits for; NULL: none */
	bool has_lock;		  /* this transition has it for the step */
	TimestampTz started_at;
	TimestampTz ended_at;
	EsStepKind kind;
	EsStepStatus status;
	char *state;
	char *error;
	char *cause;
	int ntries;
	int *tries;
	List *via; /* char * */
	Jsonb *input;
	Jsonb *sent; /* NULL: as input */
	Jsonb *output;
	Jsonb *correlate; /* of a new one that events answer, until it is written: what they are found by */
	bool is_new;	 /* not in the table yet */
	bool is_told;	 /* this transition changed it */
	bool is_dirty;	 /* in the list of what is to be written */
} EsStep;

extern const char *es_saga_status_name(EsSagaStatus status);
extern const char *es_step_status_name(EsStepStatus status);
extern const char *es_step_kind_name(EsStepKind kind);
extern EsStepStatus es_step_status_by_name(const char *name);
extern EsStepKind es_step_kind_by_name(const char *name);

/* what became of looking for an instance */
typedef enum EsSagaFound
{
	ES_SAGA_FOUND,
	ES_SAGA_BUSY, /* somebody else has its lock, and waiting was not asked for */
	ES_SAGA_NONE
} EsSagaFound;

/* Locks: the instance's row, which it takes, waiting for it or not; to the end of the transaction.  Of the session's tenant, or of any */
extern EsSagaFound es_saga_lock(const pg_uuid_t *id, bool waits, EsSaga *saga);
extern bool es_saga_exists(const pg_uuid_t *id);
/* these need the lock */
extern void es_saga_insert(const EsSaga *saga);
extern void es_saga_update(const EsSaga *saga);
/* false: it is taken, by the instance that *holder is then */
extern bool es_saga_take_key(const EsSaga *saga, const char *kind, const char *key, pg_uuid_t *holder);
/* whose it is; false: nobody's.  Sees what is committed, and this transaction's own */
extern bool es_saga_find_key(int32 definition_id, const char *tenant, const char *kind, const char *key, pg_uuid_t *holder);
extern void es_saga_drop_key(const EsSaga *saga, const char *kind, const char *key);
extern void es_saga_write_step(const EsSaga *saga, EsStep *step);
/* NULL: there is none */
extern EsStep *es_saga_read_step(const EsSaga *saga, int parent, int seq);
/* whatever it is in; NULL: there is none */
extern EsStep *es_saga_find_step(const EsSaga *saga, int seq);
/* the next item that has not begun; NULL: none */
extern EsStep *es_saga_next_item(const EsSaga *saga, const EsStep *map);
extern int es_saga_count_branches(const EsSaga *saga, const EsStep *container);
/* what came of the branches, in order: an array */
extern Jsonb *es_saga_branch_outputs(const EsSaga *saga, const EsStep *container);
/* those that wait, or have not begun */
extern List *es_saga_waiting_steps(const EsSaga *saga);
/* those that an undo may be for, the last to end first */
extern List *es_saga_undo_log(const EsSaga *saga);
/* of one thread: those, and what contains some, that ended before that one (0: all), the last first; some of them, none: there is none */
extern List *es_saga_undo_items(const EsSaga *saga, int parent, int before);
/* the attempts at the same entry of its state that may have had its effect */
extern List *es_saga_entry(const EsSaga *saga, const EsStep *step);
/* a branch with a lower seq that may have done something, the highest; NULL: none */
extern EsStep *es_saga_previous_branch(const EsSaga *saga, const EsStep *container, int before);
/* branches that are being undone */
extern List *es_saga_undoing_branches(const EsSaga *saga);
/* does an undo wait, or is a branch being undone? */
extern bool es_saga_is_undoing(const EsSaga *saga);
/* is there something that was to be undone, and the last attempt at that failed for good? */
extern bool es_saga_has_failed_undo(const EsSaga *saga);
/* is there another attempt at that entry that waits, or is done?  NULL: none */
extern EsStep *es_saga_other_attempt(const EsSaga *saga, const EsStep *step);
/* the last attempt at undoing what that entry of its state did, by whichever attempt; NULL: none */
extern EsStep *es_saga_last_undo(const EsSaga *saga, const EsStep *step);
/* where it got stuck, and nobody has gone on from yet */
extern List *es_saga_open_stops(const EsSaga *saga);
/* the last attempt at the state where it stopped; NULL: that has no row */
extern EsStep *es_saga_stopped_at(const EsSaga *saga, const EsStep *stop);
/* the last one in a branch, or in none, that is neither an undo nor a stop; NULL: none */
extern EsStep *es_saga_last_step(const EsSaga *saga, int parent);
/* those that are not done, in order */
extern List *es_saga_left_branches(const EsSaga *saga, const EsStep *container);
extern bool es_saga_has_undone(const EsSaga *saga);
extern void es_saga_write_answer(EsSaga *saga, int seq, const char *outcome, const char *error, const char *cause, Jsonb *output);

/* whose command the message is, or was; false: nobody's.  Sees what is committed, and needs no lock */
extern bool es_saga_of_message(int32 queue_id, int64 message_id, pg_uuid_t *id, int *parent, int *seq);

#endif
