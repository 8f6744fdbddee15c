/*
 * A cancelled wait for synchronous replication ends the connection.
 *
 * PostgreSQL commits locally first and waits for its standbys after. A cancel in that wait (statement_timeout,
 * pg_cancel_backend, a driver's time limit) makes it answer COMMIT with a warning that hardly any driver shows, although
 * a failover may lose the transaction. Here the client sees a lost connection instead: the outcome is unknown, which is
 * the truth, and which every client must be able to meet anyway.
 *
 * The only sign of it is the warning of SyncRepWaitForLSN() (syncrep.c), so the hook that sees all of the server's
 * messages looks for a warning of that function. The connection can't be ended from there: the transaction is committed
 * and holds its locks, and an error now would be a panic. So what PostgreSQL does by itself for a terminated session in
 * that wait is done for a cancelled one too: it dies at the next point where it may. The socket is shut down at once,
 * for an answer may leave before that point comes. (PostgreSQL switches whereToSendOutput off instead, after which the
 * session prompts "backend>" on its way out and an answer that is in the buffer by then may still be sent.)
 *
 * Two-phase commits wait in the same function. Workers have no client, but somebody who believes them: they die too,
 * and whoever started them sees it. Parallel workers never wait, for they write nothing.
 */
#include "postgres.h"

#include <sys/socket.h>

#include "fmgr.h"
#include "libpq/libpq-be.h"
#include "miscadmin.h"
#include "utils/elog.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"
#include "utils/memutils.h"

PG_MODULE_MAGIC;

static emit_log_hook_type next_hook = NULL;
static GucEnumCheckHook next_check = NULL;

static void
end_connection(ErrorData *edata)
{
	if (edata->elevel == WARNING && edata->funcname != NULL && strcmp(edata->funcname, "SyncRepWaitForLSN") == 0)
	{
		edata->output_to_client = false;
		if (edata->hint == NULL)
			edata->hint = MemoryContextStrdup(ErrorContext,
											  "The connection is closed, so that the client takes the outcome as unknown.");
		if (MyProcPort != NULL)
			(void) shutdown(MyProcPort->sock, SHUT_RDWR);
		ProcDiePending = true;
		InterruptPending = true;
	}
	if (next_hook != NULL)
		next_hook(edata);
}

/* What is not logged is not seen by the hook either. For the log, LOG stands between ERROR and FATAL. */
static bool
hides_warnings(int level)
{
	return level > WARNING || level == LOG;
}

static bool
check_log_min_messages(int *newval, void **extra, GucSource source)
{
	if (hides_warnings(*newval))
	{
		GUC_check_errdetail("Cancelled waits for synchronous replication are found by their warning, which must be logged.");
		GUC_check_errhint("Set log_min_messages to warning or lower.");
		return false;
	}
	return next_check == NULL || next_check(newval, extra, source);
}

void
_PG_init(void)
{
	struct config_generic *record;

	if (!process_shared_preload_libraries_in_progress)
		return;
	next_hook = emit_log_hook;
	emit_log_hook = end_connection;

	if (hides_warnings(log_min_messages))
	{
		ereport(LOG, (errmsg("log_min_messages is set to warning: what is above hides cancelled waits for replication")));
		SetConfigOption("log_min_messages", "warning", PGC_POSTMASTER, PGC_S_OVERRIDE);
	}
	record = find_option("log_min_messages", false, false, ERROR);
	if (record->vartype != PGC_ENUM)
		ereport(FATAL, (errmsg("log_min_messages is not what this library was made for")));
	next_check = ((struct config_enum *) record)->check_hook;
	((struct config_enum *) record)->check_hook = check_log_min_messages;
}
