/*
 * Clients wait at the door of a primary that is not open yet.
 *
 * A primary that was just promoted, or has just started, may hold what no voter holds, so nobody may read from it for a
 * moment. To refuse clients meanwhile makes each of them come back at once, again and again, with a handshake each time,
 * on the very machine that is trying to finish a failover. So they log in and are then kept waiting, until the agent
 * removes a file from the data directory, or for LONGEST at most; after that they are refused as by a server that starts.
 *
 * A file with something in it refuses at once: a server that led a moment ago may still be where kube-proxy leads clients
 * of the write Service, and they shall come again, not wait here and read what a replica has. "closed" in it: a Restore
 * replaces the data, and to come again at once is of no use.
 *
 * Whoever belongs to the cluster itself passes. So does nobody who failed to log in: that is said at once.
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "fmgr.h"
#include "libpq/auth.h"
#include "libpq/libpq-be.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

PG_MODULE_MAGIC;

#define DOOR "matriarch.closed"	/* relative to the data directory, where every process of the server works */
#define LONGEST 5000			/* ms */
#define LOOK 4					/* ms between two looks */

static ClientAuthentication_hook_type next_hook = NULL;

typedef enum
{
	OPEN,
	WAITS,
	REFUSES,
	CLOSED
} DoorState;

static DoorState
door_state(void)
{
	char		first;
	int			file,
				got;

	file = OpenTransientFile(DOOR, O_RDONLY | PG_BINARY);
	if (file < 0)
		return errno == ENOENT ? OPEN : WAITS;
	got = read(file, &first, 1);
	CloseTransientFile(file);
	if (got != 1)
		return WAITS;
	return first == 'c' ? CLOSED : REFUSES;
}

static bool
is_ours(const char *user)
{
	if (strcmp(user, "matriarch_pooler") == 0)	/* it asks for its clients, and waits as they do */
		return false;
	return strcmp(user, "postgres") == 0 || strncmp(user, "matriarch_", strlen("matriarch_")) == 0;
}

/* Who waits has a slot of max_connections. The agent needs some at the same time, and more than are reserved for it. */
static bool
has_room(void)
{
	int			found;

	return HaveNFreeProcs(Max(MaxConnections / 4, 4), &found);
}

static void
wait_at_door(Port *port, int status)
{
	TimestampTz end;
	DoorState	door;

	if (next_hook != NULL)
		next_hook(port, status);
	if (status != STATUS_OK || is_ours(port->user_name))
		return;
	end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LONGEST);
	while ((door = door_state()) != OPEN)
	{
		int			events;

		if (door == CLOSED)
			ereport(FATAL,
					(errcode(ERRCODE_CANNOT_CONNECT_NOW),
					 errmsg("a restore replaces the data of this cluster, and clients are let in again after it"),
					 errhint("See kubectl get restores in the cluster's namespace.")));
		if (door == REFUSES)
			ereport(FATAL,
					(errcode(ERRCODE_CANNOT_CONNECT_NOW),
					 errmsg("this instance is a replica that takes no clients yet"),
					 errhint("Connect again: the write Service leads to the primary.")));
		if (GetCurrentTimestamp() >= end || !has_room())
			ereport(FATAL,
					(errcode(ERRCODE_CANNOT_CONNECT_NOW),
					 errmsg("the database is not open for clients yet")));
		events = WaitLatchOrSocket(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH | WL_SOCKET_CLOSED,
								   port->sock, LOOK, PG_WAIT_EXTENSION);
		if (events & WL_SOCKET_CLOSED)
			proc_exit(0);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	next_hook = ClientAuthentication_hook;
	ClientAuthentication_hook = wait_at_door;
}
