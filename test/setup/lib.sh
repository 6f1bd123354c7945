# Shell functions that the scripts of test/setup share; sourced, not run.

say() { printf '== %s\n' "$*" >&2; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

require_root() { [ "$(id -u)" -eq 0 ] || die "needs root"; }

# PostgreSQL refuses to run as root, so root runs servers, and all that goes with them, as postgres.
run_unprivileged()
{
	if [ "$(id -u)" -eq 0 ]; then
		runuser -u postgres -- "$@"
	else
		"$@"
	fi
}

# apt_install PACKAGE...: as root or with sudo.  What apt says is shown when it fails.
apt_install()
{
	local as_root=() log status=0

	if [ "$(id -u)" -ne 0 ]; then
		command -v sudo >/dev/null || die "missing packages, and no sudo to install them: $*"
		as_root=(sudo)
	fi
	say "installing $*"
	log=$(mktemp)
	# somebody else's source that does not answer is no reason to stop: the installation says what is missing
	"${as_root[@]}" apt-get -q -o DPkg::Lock::Timeout=300 update >"$log" 2>&1 || true
	"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends \
		-o DPkg::Lock::Timeout=300 install "$@" >>"$log" 2>&1 </dev/null || status=$?
	[ "$status" -eq 0 ] || tail -n 40 "$log" >&2
	rm -f "$log"
	[ "$status" -eq 0 ] || die "could not install $*"
}

# The user whose rights run_unprivileged gives.
unprivileged_uid()
{
	if [ "$(id -u)" -eq 0 ]; then
		id -u postgres
	else
		id -u
	fi
}

# copy_tree SOURCE TARGET: a copy owned by the unprivileged user, who may be unable to read the source.  Without what
# git ignores.
copy_tree()
{
	tar -C "$1" --exclude=./.git --exclude='*.o' --exclude='*.bc' --exclude='*.so' --exclude='./sql/evtstore--*.sql' \
		--exclude=./log --exclude=./results --exclude=./output_iso --exclude=./tmp_check --exclude=./tmp_check_iso \
		-cf - . | run_unprivileged tar -C "$2" --no-same-owner -xf -
}

# The pg_config to build with: the caller's, or the packaged server's.
find_pg_config()
{
	local config=${PG_CONFIG:-/usr/lib/postgresql/15/bin/pg_config}

	command -v "$config" || die "no $config: install postgresql-server-dev-15 or say PG_CONFIG=/path/to/pg_config"
}

# Where clusters of the tests and of the demo live: a short path, as those of unix sockets must be, that postgres can
# enter.  Not TMPDIR, which may be private to the user who became root.
scratch_parent=/tmp

# stop_servers_below FOLDER: ends each server whose data folder is there, and waits; for what a test left running.
stop_servers_below()
{
	local file folder pid tries

	find "$1" -name postmaster.pid 2>/dev/null | while read -r file; do
		folder=$(dirname "$file")
		pid=$(head -n 1 "$file" 2>/dev/null) || continue
		# the file may be of a server that is long gone, and its number somebody else's by now
		[ "$(readlink "/proc/$pid/cwd" 2>/dev/null)" = "$folder" ] || continue
		kill -QUIT "$pid" 2>/dev/null || continue
		for tries in $(seq 100); do
			[ "$(readlink "/proc/$pid/cwd" 2>/dev/null)" = "$folder" ] || break
			sleep 0.1
		done
	done
}

# in_chroot ROOT COMMAND...: in namespaces of its own, so that mounts and processes are gone when it ends.
in_chroot()
{
	local root=$1

	shift
	unshare --mount --pid --fork --kill-child bash -euc '
		root=$1; shift
		mount -t proc proc "$root/proc"
		mount -t tmpfs tmpfs "$root/dev/shm"
		export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
		exec chroot "$root" "$@"' in_chroot "$root" "$@"
}

# check_in_chroot ROOT TREE PG_CONFIG [TEST...]: the tests of the tree with a server of the chroot.  One at a time.
check_in_chroot()
{
	local root=$1 tree=$2 config=$3 lock status=0

	shift 3
	exec {lock}> "$root.lock"
	flock "$lock"
	rm -rf --one-file-system "$root/evtstore"
	# of an earlier day; what failed a moment ago is still wanted
	find "$root/tmp" -mindepth 1 -maxdepth 1 -name 'evtstore-*' -mmin +60 -exec rm -rf {} +
	mkdir "$root/evtstore"
	tar -C "$tree" --exclude=./.git -cf - . | tar -C "$root/evtstore" --no-same-owner -xf -
	in_chroot "$root" env PG_CONFIG="$config" \
		EVTSTORE_SUITES="${EVTSTORE_SUITES:-build regress isolation tap}" EVTSTORE_VALGRIND="${EVTSTORE_VALGRIND:-}" \
		/evtstore/test/setup/check "$@" || status=$?
	[ "$status" -eq 0 ] || say "(folders as in the chroot $root)"
	exec {lock}>&-
	return "$status"
}
