# evtstore: an event store inside PostgreSQL.
#
#   make                 build the library and the install script for the server that pg_config belongs to
#   make install         install them (as root)
#   make installcheck    run the tests against what is installed; starts its own servers; not as root
#
# and, each doing its own set-up on a fresh Debian 12, as root or as a user with sudo:
#
#   make check           packages, build, lints and all tests, on a server copy of its own; TEST=name runs one
#   make demo            packages, build, install, then the demo; its cluster stays up for you to look around
#   make demo-stop       ends the demo's cluster
#   make check-servers   the tests on PostgreSQL 17 and 18, in chroots (root)
#   make check-debug     the tests on a server with asserts, and the SQL tests under valgrind, in a chroot (root)
#
# test/setup holds the scripts of the second group.  They must parse where PostgreSQL is not installed yet, and one has
# a name that PGXS takes too: so a call with such a goal leaves PGXS out and starts a make of its own for the rest.

PG_CONFIG ?= pg_config

SETUP_GOALS = check demo demo-stop check-servers check-debug

ifneq ($(filter $(SETUP_GOALS),$(MAKECMDGOALS)),)

.NOTPARALLEL:
.PHONY: $(MAKECMDGOALS)

check:
	@test/setup/check $(TEST)

demo:
	@test/setup/demo run

demo-stop:
	@test/setup/demo stop

check-servers:
	@test/setup/servers $(TEST)

check-debug:
	@test/setup/debug $(TEST)

ifneq ($(filter-out $(SETUP_GOALS),$(MAKECMDGOALS)),)
$(filter-out $(SETUP_GOALS),$(MAKECMDGOALS)):
	@$(MAKE) $@
endif

else

EXTENSION  = evtstore
MODULE_big = evtstore
EXTVERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" $(EXTENSION).control)

OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c src/transport/*.c)))
OUR_HEADERS = $(wildcard src/*.h src/transport/*.h src/transport/libs/*.h)

PG_CPPFLAGS = -Isrc
# the three exceptions are what macros of the server's own headers trip over
PG_CFLAGS   = -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers
SHLIB_LINK  = -lcjson

# Each transport is a library of its own, built where its client library has headers: NAME, header, what it links.
TRANSPORT_HEADER_http = curl/curl.h
TRANSPORT_LIBS_http = -lcurl
TRANSPORT_HEADER_kafka = librdkafka/rdkafka.h
TRANSPORT_LIBS_kafka = -lrdkafka
TRANSPORT_HEADER_amqp = amqp.h
TRANSPORT_LIBS_amqp = -lrabbitmq -lssl -lcrypto
# no client library: nats_wire.c speaks the protocol
TRANSPORT_HEADER_nats = openssl/ssl.h
TRANSPORT_LIBS_nats = -lssl -lcrypto
TRANSPORT_HEADER_postgresql = libpq-fe.h
TRANSPORT_CPPFLAGS_postgresql = -I$(shell $(PG_CONFIG) --includedir)
TRANSPORT_LIBS_postgresql = -L$(shell $(PG_CONFIG) --libdir) -lpq
# within a function make reads the sign itself in one way or another
HASH := \#
ifeq ($(origin TRANSPORTS),undefined)
TRANSPORTS := $(strip $(foreach name,http kafka amqp nats postgresql,$(if $(wildcard src/transport/libs/$(name).c), \
	$(if $(shell echo '$(HASH)include <$(TRANSPORT_HEADER_$(name))>' | $(CC) $(TRANSPORT_CPPFLAGS_$(name)) -E - >/dev/null 2>&1 && echo yes),$(name)))))
endif
TRANSPORT_LIBRARIES = $(TRANSPORTS:%=evtstore_%$(DLSUFFIX))

# Every released step, oldest first: 0.1.0--0.2.0 0.2.0--0.3.0; sql/update has a file of that name for each.
STEPS =

SCHEMA_SQL  = $(sort $(wildcard sql/schema/*.sql))
API_SQL     = $(sort $(wildcard sql/api/*.sql))
INSTALL_SQL = sql/$(EXTENSION)--$(EXTVERSION).sql
UPDATE_SQL  = $(foreach step,$(STEPS),sql/$(EXTENSION)--$(firstword $(subst --, ,$(step)))--$(EXTVERSION).sql)
DATA_built  = $(INSTALL_SQL) $(UPDATE_SQL)

# --inputdir: pg_regress would take a file of sql/ before one of test/sql/.  The launcher gives each test a new database
# with the extension, so that a test is the same alone and in company.
SUITE_OPTS     = --inputdir=test --temp-config=test/evtstore.conf --launcher=test/setup/fresh_database --no-locale
REGRESS        = $(patsubst test/sql/%.sql,%,$(sort $(wildcard test/sql/*.sql)))
REGRESS_OPTS   = $(SUITE_OPTS) --temp-instance=./tmp_check
ISOLATION      = $(patsubst test/specs/%.spec,%,$(sort $(wildcard test/specs/*.spec)))
ISOLATION_OPTS = $(SUITE_OPTS) --temp-instance=./tmp_check_iso
TAP_TESTS      = 1
PROVE_TESTS   ?= test/t/*.pl
override PROVE_FLAGS += -I test/t/lib

EXTRA_CLEAN = src/condition_names.inc evtstore_*.so src/transport/libs/*.o log output_iso results tmp_check tmp_check_iso

PGXS := $(shell $(PG_CONFIG) --pgxs)
ifeq ($(PGXS),)
$(error $(PG_CONFIG) does not answer: install the server's development package (Debian: postgresql-server-dev-15) \
	or say PG_CONFIG=/path/to/pg_config)
endif
include $(PGXS)

# names of SQLSTATEs, from the server's own list
src/condition_names.inc: $(datadir)/errcodes.txt
	awk '$$2 ~ /^[EWS]$$/ && NF == 4 { printf "{\"%s\", \"%s\"},\n", $$1, $$4 }' $< > $@
src/condition_name.o src/condition_name.bc: src/condition_names.inc

export EVTSTORE_PSQL = $(bindir)/psql

# Every source depends on every header of ours: they are few, and a missed one costs more than the rebuild.
$(OBJS) $(OBJS:.o=.bc): $(OUR_HEADERS) Makefile

TRANSPORT_OBJS = $(patsubst %.c,%.o,$(wildcard src/transport/libs/*.c))
$(TRANSPORT_OBJS): $(OUR_HEADERS) Makefile
$(foreach name,$(TRANSPORTS),$(eval $(patsubst %.c,%.o,$(wildcard src/transport/libs/$(name).c src/transport/libs/$(name)_*.c)): \
	override CPPFLAGS += $(TRANSPORT_CPPFLAGS_$(name))))
$(TRANSPORT_OBJS): override CFLAGS += $(CFLAGS_SL) $(CFLAGS_SL_MODULE)

# A library is made of NAME.c, NAME_*.c and what is shared; each is to call its own copy of that.
TRANSPORT_SHARED = $(patsubst %,src/transport/libs/%.o,links settings thread thread_links)
.SECONDEXPANSION:
evtstore_%$(DLSUFFIX): src/transport/libs/%.o $(TRANSPORT_SHARED) $$(subst .c,.o,$$(wildcard src/transport/libs/$$*_*.c))
	$(CC) $(CFLAGS) -shared -Wl,-Bsymbolic -o $@ $^ $(LDFLAGS) $(LDFLAGS_SL) $(TRANSPORT_LIBS_$*) -lpthread
evtstore_amqp$(DLSUFFIX): src/transport/libs/tls.o

all: $(TRANSPORT_LIBRARIES)
.PHONY: install-transports uninstall-transports
install: install-transports
install-transports: $(TRANSPORT_LIBRARIES) installdirs
	$(INSTALL_SHLIB) $(TRANSPORT_LIBRARIES) '$(DESTDIR)$(pkglibdir)/'
uninstall: uninstall-transports
uninstall-transports:
	rm -f $(TRANSPORT_LIBRARIES:%='$(DESTDIR)$(pkglibdir)/%')

# A fresh install creates, it never replaces: nobody can have put an object of our name there before us.
$(INSTALL_SQL): $(SCHEMA_SQL) $(API_SQL) Makefile
	cat $(SCHEMA_SQL) $(API_SQL) | sed 's/^CREATE OR REPLACE/CREATE/' > $@

# An update goes straight to the current version: the table changes of each step, then today's functions and views.
sql/$(EXTENSION)--%--$(EXTVERSION).sql: $(API_SQL) $(STEPS:%=sql/update/%.sql) Makefile
	{ printf '%s\n' '\echo Use "ALTER EXTENSION $(EXTENSION) UPDATE" to load this file. \quit'; \
	  printf '%s\n' $(STEPS) | sed -n '/^$*--/,$$s|.*|sql/update/&.sql|p' | xargs cat; \
	  cat $(API_SQL); } > $@

# Bitcode of an earlier build would be inlined by the server's JIT in place of the new code.
ifneq ($(with_llvm),yes)
install: remove-stale-bitcode
.PHONY: remove-stale-bitcode
remove-stale-bitcode:
	rm -rf '$(DESTDIR)$(pkglibdir)/bitcode/$(MODULE_big)' '$(DESTDIR)$(pkglibdir)/bitcode/$(MODULE_big).index.bc'
endif

.DELETE_ON_ERROR:

endif
