/*
 * PostgreSQL's archive_command and restore_command: asks the archiver beside the server, and waits for its word.
 *
 *     matriarch-wal [--socket PATH] [--timeout SECONDS] push  %p %f
 *     matriarch-wal [--socket PATH] [--timeout SECONDS] fetch %f %p
 *
 * Started once for every 16 MiB of WAL, so it starts nothing itself: no interpreter, no shared library, no shell.
 * Exit 0 has one meaning: the archiver said that the object is stored (push), or the file is in its place (fetch). Any
 * doubt is another status, with one sentence on stderr. A push that fails is repeated by PostgreSQL for ever. A fetch
 * that exits with 1 tells PostgreSQL that the archive ends here, and with more than 125 that recovery has to stop and be
 * tried again: so only the archiver may say the first, and everything unknown is the second.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define SOCKET "/run/matriarch/archive.sock"
#define PUSH_SECONDS 60			/* PostgreSQL asks again; nothing is lost meanwhile */
#define FETCH_SECONDS 600		/* a store that is away for this long ends the recovery, which is then tried again */
#define RETRY_MS 50				/* between two attempts to reach an archiver that is just restarted */
#define LOOK_MS 100				/* between two looks at whether the server is stopping */
#define LINE 4096
#define LOCK_FILE "postmaster.pid"	/* PostgreSQL runs its commands in the data directory */
#define DOUBT_PUSH 1
#define STOPPING 255
#define DOUBT_FETCH 200			/* more than 125: PostgreSQL stops recovery in place of ending it */

static int	doubt = DOUBT_PUSH;

static void __attribute__((noreturn, format(printf, 2, 3)))
give_up(int status, const char *format, ...)
{
	va_list		arguments;

	fputs("matriarch-wal: ", stderr);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	exit(status);
}

static long long
now_ms(void)
{
	struct timespec now;

	if (clock_gettime(CLOCK_MONOTONIC, &now) != 0)
		give_up(doubt, "no clock: %s", strerror(errno));
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* Names of WAL files, histories and labels consist of these, so a name can't end a request or leave a folder. */
static void
check_name(const char *name)
{
	size_t		length = strlen(name);

	if (length == 0 || length > 63 || name[0] == '.' ||
		strspn(name, "0123456789ABCDEFabcdefghijklmnopqrstuvwxyz.") != length)
		give_up(doubt, "%s is no name of a WAL file", name);
}

/*
 * A server that stops lets its archiver finish first, so a store that is away would hold up a switchover. A status of
 * more than 125 ends PostgreSQL's archiver at once; the file stays as it is, to be archived when the server runs again.
 */
static void
leave_if_stopping(void)
{
	char		text[2048];
	int			fd,
				line = 1;
	ssize_t		length;

	if (doubt != DOUBT_PUSH || (fd = open(LOCK_FILE, O_RDONLY | O_CLOEXEC)) < 0)
		return;
	length = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (length <= 0)
		return;
	text[length] = '\0';
	for (char *at = text; at != NULL; at = strchr(at, '\n'), line++)
	{
		at += *at == '\n';
		if (line == 8)			/* LOCK_FILE_LINE_PM_STATUS */
		{
			if (strncmp(at, "stopping", 8) == 0)
				give_up(STOPPING, "PostgreSQL is stopping; the rest is archived when it runs again");
			return;
		}
	}
}

/* Ready for `events` in time? */
static int
wait_for(int fd, short events, long long deadline)
{
	for (;;)
	{
		struct pollfd one = {.fd = fd, .events = events};
		long long	left = deadline - now_ms();
		int			found;

		if (left <= 0)
			return 0;
		leave_if_stopping();
		found = poll(&one, 1, (int) (left > LOOK_MS ? LOOK_MS : left));
		if (found > 0)
			return 1;
		if (found < 0 && errno != EINTR)
			return 0;
	}
}

static int
try_connect(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct timeval patience = {.tv_sec = 5};	/* for an archiver that hangs with a full queue of connections */
	int			fd;

	if (strlen(path) >= sizeof(address.sun_path))
		give_up(doubt, "the socket's path is too long: %s", path);
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		give_up(doubt, "no socket: %s", strerror(errno));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (connect(fd, (struct sockaddr *) &address, sizeof(address)) == 0)
		return fd;
	close(fd);
	return -1;
}

/* One line of answer without its end, or 0 when the connection broke: then nothing is known, and it is asked again. */
static int
ask(int fd, const char *request, char *answer, long long deadline)
{
	size_t		length = strlen(request),
				done = 0;

	while (done < length)
	{
		ssize_t		sent = send(fd, request + done, length - done, MSG_NOSIGNAL);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent <= 0)
			return 0;
		done += sent;
	}
	done = 0;
	while (done < LINE - 1)
	{
		ssize_t		got;

		if (!wait_for(fd, POLLIN, deadline))
			give_up(doubt, "the archiver has not answered in time; it goes on, and is asked again");
		got = recv(fd, answer + done, LINE - 1 - done, 0);
		if (got < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (got <= 0)
			return 0;
		done += got;
		if (answer[done - 1] == '\n')
		{
			answer[done - 1] = '\0';
			return strlen(answer) == done - 1;
		}
	}
	return 0;
}

static void
converse(const char *path, const char *request, char *answer, long long deadline)
{
	for (;;)
	{
		struct timespec pause = {.tv_nsec = RETRY_MS * 1000000L};
		int			fd = try_connect(path);

		if (fd >= 0)
		{
			int			answered = ask(fd, request, answer, deadline);

			close(fd);
			if (answered)
				return;
		}
		leave_if_stopping();
		if (now_ms() + RETRY_MS >= deadline)
			give_up(doubt, "the archiver does not answer at %s; its Pod's log says why", path);
		nanosleep(&pause, NULL);
	}
}

/* Copies where rename can't. Whatever is left after a failure is never taken for a WAL file: the status is not 0. */
static void
copy(const char *from, const char *to)
{
	static char buffer[1 << 20];
	int			in = open(from, O_RDONLY | O_CLOEXEC),
				out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	ssize_t		got;

	if (in < 0 || out < 0)
		give_up(doubt, "%s cannot be copied to %s: %s", from, to, strerror(errno));
	while ((got = read(in, buffer, sizeof(buffer))) != 0)
	{
		ssize_t		done = 0;

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			give_up(doubt, "%s cannot be read: %s", from, strerror(errno));
		while (done < got)
		{
			ssize_t		written = write(out, buffer + done, got - done);

			if (written < 0 && errno == EINTR)
				continue;
			if (written <= 0)
				give_up(doubt, "%s cannot be written: %s", to, strerror(errno));
			done += written;
		}
	}
	if (fsync(out) != 0 || close(out) != 0)
		give_up(doubt, "%s cannot be written: %s", to, strerror(errno));
	close(in);
	unlink(from);
}

static void
put_in_place(const char *from, const char *to)
{
	if (rename(from, to) == 0)
		return;
	if (errno != EXDEV)
		give_up(doubt, "%s cannot be moved to %s: %s", from, to, strerror(errno));
	copy(from, to);
}

static void
push(const char *socket_path, const char *path, const char *name, long long deadline)
{
	char		request[256],
				answer[LINE],
				wanted[96];
	const char *base = strrchr(path, '/');
	struct stat file;

	check_name(name);
	if (strcmp(base == NULL ? path : base + 1, name) != 0)
		give_up(doubt, "%s is not the file %s", path, name);
	/* Device and inode say which file is meant, so that an archiver of another server can't answer for this one. */
	if (stat(path, &file) != 0 || !S_ISREG(file.st_mode))
		give_up(doubt, "%s is no file that can be read", path);
	snprintf(request, sizeof(request), "push %s %llu %llu\n", name, (unsigned long long) file.st_dev,
			 (unsigned long long) file.st_ino);
	converse(socket_path, request, answer, deadline);
	snprintf(wanted, sizeof(wanted), "ok %s", name);
	if (strcmp(answer, wanted) == 0)
		exit(0);
	if (strncmp(answer, "no ", 3) == 0)
		give_up(doubt, "%s", answer + 3);
	give_up(doubt, "the archiver's answer is not understood");
}

static void
fetch(const char *socket_path, const char *name, const char *path, long long deadline)
{
	char		request[128],
				answer[LINE],
				wanted[96];

	check_name(name);
	snprintf(request, sizeof(request), "fetch %s\n", name);
	converse(socket_path, request, answer, deadline);
	snprintf(wanted, sizeof(wanted), "ok %s /", name);
	if (strncmp(answer, wanted, strlen(wanted)) == 0)
	{
		put_in_place(answer + strlen(wanted) - 1, path);
		exit(0);
	}
	if (strncmp(answer, "missing ", 8) == 0)
		give_up(1, "%s", answer + 8);
	if (strncmp(answer, "no ", 3) == 0)
		give_up(doubt, "%s", answer + 3);
	give_up(doubt, "the archiver's answer is not understood");
}

int
main(int count, char **arguments)
{
	const char *socket_path = SOCKET;
	long		seconds = 0;
	int			at = 1;

	for (; at + 1 < count && strncmp(arguments[at], "--", 2) == 0; at += 2)
	{
		if (strcmp(arguments[at], "--socket") == 0)
			socket_path = arguments[at + 1];
		else if (strcmp(arguments[at], "--timeout") == 0)
		{
			char	   *end;

			seconds = strtol(arguments[at + 1], &end, 10);
			if (*end != '\0' || seconds < 1 || seconds > 86400)
				give_up(DOUBT_FETCH, "--timeout wants seconds, 1 to 86400");
		}
		else
			give_up(DOUBT_FETCH, "%s is no option", arguments[at]);
	}
	if (count - at == 3 && strcmp(arguments[at], "push") == 0)
		push(socket_path, arguments[at + 1], arguments[at + 2], now_ms() + 1000LL * (seconds ? seconds : PUSH_SECONDS));
	doubt = DOUBT_FETCH;
	if (count - at == 3 && strcmp(arguments[at], "fetch") == 0)
		fetch(socket_path, arguments[at + 1], arguments[at + 2], now_ms() + 1000LL * (seconds ? seconds : FETCH_SECONDS));
	give_up(DOUBT_FETCH, "usage: matriarch-wal [--socket PATH] [--timeout SECONDS] push PATH NAME | fetch NAME PATH");
}
