/*
 * The agent in the guest: runs commands for the host over one byte stream (a virtio-serial port).
 * Started by images/init as process 1; also run on the host by tests, on a socket (agent --fd N).
 * The frames are described in images/README.md; vhostnvme/guest/protocol.py is the other end.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum {
	MAX_CHANNELS = 64,
	MAX_PAYLOAD = 32768,
	MAX_EXEC = 65536,      /* command line and environment */
	WINDOW = 262144,       /* output bytes a channel may send before the host grants more */
	STDIN_WINDOW = 65536,  /* input bytes the host may send before we grant more */
	HEADER = 8,
	MAX_ENV = 256,
};

enum frame_type {
	FRAME_EXEC = 1,        /* u8 flags, then command NUL name=value NUL ... */
	FRAME_STDIN = 2,       /* data; empty: end of input */
	FRAME_KILL = 3,        /* u8 signal */
	FRAME_CREDIT = 4,      /* u32 bytes; both ways */
	FRAME_RESIZE = 5,      /* u16 rows, u16 columns */
	FRAME_HELLO = 0x80,    /* magic, u32 uptime in ms */
	FRAME_STDOUT = 0x81,
	FRAME_STDERR = 0x82,
	FRAME_EXIT = 0x83,     /* i32: exit code, 128 + signal when killed */
	FRAME_ERROR = 0x84,    /* text: the command was not started */
};

enum { EXEC_PTY = 1 };

static const char hello_magic[16] = "vhostnvme-hello1";
static const char sync_magic[16] = "vhostnvme-sync01";

/* One running command. */
struct channel {
	bool used;
	bool exited;
	bool stdin_eof;        /* the host sent the end of input */
	uint16_t id;
	pid_t pid;
	int status;
	int in_fd;             /* -1: closed */
	int out_fd[2];         /* stdout, stderr; -1: closed */
	uint32_t credit;       /* output bytes we may still send */
	uint32_t in_start, in_len;
	uint8_t in[STDIN_WINDOW];
};

static struct channel channels[MAX_CHANNELS];
static int port = -1;
static int signal_fd = -1;
static bool port_is_socket;
static sigset_t original_mask;

/* What the host sent and is not yet a whole frame; what it has not yet taken. */
static uint8_t rx[MAX_EXEC + 2 * HEADER];
static size_t rx_len;
static uint8_t tx[4 * (MAX_PAYLOAD + HEADER)];
static size_t tx_start, tx_len;
static bool synced;

static void put16(uint8_t *p, uint16_t v)
{
	p[0] = v & 0xff;
	p[1] = v >> 8;
}

static void put32(uint8_t *p, uint32_t v)
{
	put16(p, v & 0xffff);
	put16(p + 2, v >> 16);
}

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t get32(const uint8_t *p)
{
	return get16(p) | (uint32_t)get16(p + 2) << 16;
}

static size_t tx_room(void)
{
	return sizeof(tx) - tx_len;
}

/* Queues a frame; callers made sure of the room. Control frames have a reserve kept by pump_output(). */
static void send_frame(uint16_t id, uint8_t type, const void *data, uint32_t len)
{
	if (tx_room() < HEADER + len)
		return;
	if (tx_start + tx_len + HEADER + len > sizeof(tx)) {
		memmove(tx, tx + tx_start, tx_len);
		tx_start = 0;
	}
	uint8_t *p = tx + tx_start + tx_len;
	put32(p, len);
	put16(p + 4, id);
	p[6] = type;
	p[7] = 0;
	if (len)
		memcpy(p + HEADER, data, len);
	tx_len += HEADER + len;
}

static void send_hello(void)
{
	uint8_t body[20];
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	memcpy(body, hello_magic, 16);
	put32(body + 16, (uint32_t)(now.tv_sec * 1000 + now.tv_nsec / 1000000));
	send_frame(0, FRAME_HELLO, body, sizeof(body));
}

static void send_error(uint16_t id, const char *text)
{
	send_frame(id, FRAME_ERROR, text, (uint32_t)strlen(text));
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static struct channel *find_channel(uint16_t id)
{
	for (int i = 0; i < MAX_CHANNELS; i++)
		if (channels[i].used && channels[i].id == id)
			return &channels[i];
	return NULL;
}

static void drop_channel(struct channel *ch)
{
	close_fd(&ch->in_fd);
	close_fd(&ch->out_fd[0]);
	close_fd(&ch->out_fd[1]);
	ch->used = false;
}

static _Noreturn void child(const char *command, char **env, int in, int out, int err, bool pty)
{
	setsid();
	if (pty)
		ioctl(in, TIOCSCTTY, 0);
	if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0)
		_exit(126);
	sigprocmask(SIG_SETMASK, &original_mask, NULL);
	signal(SIGPIPE, SIG_DFL);
	for (char **e = env; *e; e++)
		putenv(*e);
	if (*command)
		execl("/bin/sh", "sh", "-c", command, (char *)NULL);
	else
		execl("/bin/sh", "-sh", (char *)NULL);
	_exit(127);
}

/* Pipes or a pty for a new command: ours in ch, the child's in theirs. */
static int open_streams(struct channel *ch, bool pty, int theirs[3])
{
	if (pty) {
		int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
		char name[64];

		if (master < 0 || grantpt(master) || unlockpt(master) || ptsname_r(master, name, sizeof(name))) {
			close_fd(&master);
			return -1;
		}
		theirs[0] = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
		theirs[1] = theirs[2] = theirs[0];
		ch->out_fd[0] = master;
		ch->in_fd = fcntl(master, F_DUPFD_CLOEXEC, 3);
		return theirs[0] < 0 ? -1 : 0;
	}
	int p[3][2];
	for (int i = 0; i < 3; i++)
		if (pipe2(p[i], O_CLOEXEC)) {
			while (i-- > 0) {
				close(p[i][0]);
				close(p[i][1]);
			}
			return -1;
		}
	ch->in_fd = p[0][1];
	ch->out_fd[0] = p[1][0];
	ch->out_fd[1] = p[2][0];
	theirs[0] = p[0][0];
	theirs[1] = p[1][1];
	theirs[2] = p[2][1];
	return 0;
}

static void start_command(uint16_t id, const uint8_t *body, uint32_t len)
{
	char *env[MAX_ENV + 1];
	size_t nr_env = 0;
	struct channel *ch = NULL;
	int theirs[3] = { -1, -1, -1 };

	if (len < 2 || body[len - 1] != 0) {
		send_error(id, "malformed command");
		return;
	}
	if (find_channel(id)) {
		send_error(id, "the channel is in use");
		return;
	}
	for (int i = 0; i < MAX_CHANNELS && !ch; i++)
		if (!channels[i].used)
			ch = &channels[i];
	if (!ch) {
		send_error(id, "too many commands at once");
		return;
	}
	char *text = (char *)body + 1, *end = (char *)body + len;
	for (char *p = text + strlen(text) + 1; p < end && nr_env < MAX_ENV; p += strlen(p) + 1)
		env[nr_env++] = p;
	env[nr_env] = NULL;

	bool pty = body[0] & EXEC_PTY;
	*ch = (struct channel){ .id = id, .in_fd = -1, .out_fd = { -1, -1 }, .credit = WINDOW };
	if (open_streams(ch, pty, theirs) == 0)
		ch->pid = fork();
	else
		ch->pid = -1;
	if (ch->pid == 0)
		child(text, env, theirs[0], theirs[1], theirs[2], pty);
	close_fd(&theirs[0]);
	if (!pty) {
		close_fd(&theirs[1]);
		close_fd(&theirs[2]);
	}
	if (ch->pid < 0) {
		send_error(id, strerror(errno));
		drop_channel(ch);
		return;
	}
	for (int i = 0; i < 2; i++)
		if (ch->out_fd[i] >= 0)
			fcntl(ch->out_fd[i], F_SETFL, O_NONBLOCK);
	fcntl(ch->in_fd, F_SETFL, O_NONBLOCK);
	ch->used = true;
}

static void take_input(struct channel *ch, const uint8_t *data, uint32_t len)
{
	if (len == 0) {
		ch->stdin_eof = true;
		return;
	}
	if (ch->in_fd < 0 || len > sizeof(ch->in) - ch->in_len)
		return; /* nobody reads it, or the host broke its window */
	memmove(ch->in, ch->in + ch->in_start, ch->in_len);
	ch->in_start = 0;
	memcpy(ch->in + ch->in_len, data, len);
	ch->in_len += len;
}

static void handle_frame(uint16_t id, uint8_t type, const uint8_t *body, uint32_t len)
{
	struct channel *ch = find_channel(id);

	if (type == FRAME_EXEC) {
		start_command(id, body, len);
		return;
	}
	if (!ch)
		return; /* it has ended meanwhile */
	switch (type) {
	case FRAME_STDIN:
		take_input(ch, body, len);
		break;
	case FRAME_KILL:
		if (len == 1 && !ch->exited)
			kill(-ch->pid, body[0]);
		break;
	case FRAME_CREDIT:
		if (len == 4)
			ch->credit += get32(body);
		break;
	case FRAME_RESIZE:
		if (len == 4) {
			struct winsize size = { .ws_row = get16(body), .ws_col = get16(body + 2) };
			if (ch->in_fd >= 0)
				ioctl(ch->in_fd, TIOCSWINSZ, &size);
		}
		break;
	default:
		break;
	}
}

static void end_all(void)
{
	for (int i = 0; i < MAX_CHANNELS; i++)
		if (channels[i].used) {
			if (!channels[i].exited)
				kill(-channels[i].pid, SIGKILL);
			drop_channel(&channels[i]);
		}
}

/* Bytes of an earlier boot may still be in the stream: skip to the host's answer to our greeting. */
static void find_sync(void)
{
	uint8_t *at = memmem(rx, rx_len, sync_magic, sizeof(sync_magic));

	if (at) {
		rx_len -= (size_t)(at - rx) + sizeof(sync_magic);
		memmove(rx, at + sizeof(sync_magic), rx_len);
		synced = true;
	} else if (rx_len >= sizeof(sync_magic)) {
		memmove(rx, rx + rx_len - (sizeof(sync_magic) - 1), sizeof(sync_magic) - 1);
		rx_len = sizeof(sync_magic) - 1;
	}
}

/* Returns false when the stream has ended. */
static bool pump_port_in(void)
{
	ssize_t n = read(port, rx + rx_len, sizeof(rx) - rx_len);

	if (n == 0)
		return false;
	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	rx_len += (size_t)n;
	if (!synced)
		find_sync();
	size_t at = 0;
	while (synced && rx_len - at >= HEADER) {
		uint32_t len = get32(rx + at);

		if (len > MAX_EXEC) {
			/* Not ours: start over. */
			end_all();
			synced = false;
			rx_len = at = 0;
			send_hello();
			break;
		}
		if (rx_len - at < HEADER + len)
			break;
		handle_frame(get16(rx + at + 4), rx[at + 6], rx + at + HEADER, len);
		at += HEADER + len;
	}
	rx_len -= at;
	memmove(rx, rx + at, rx_len);
	return true;
}

static bool pump_port_out(void)
{
	while (tx_len) {
		ssize_t n = write(port, tx + tx_start, tx_len);

		if (n < 0)
			return errno == EAGAIN || errno == EINTR;
		tx_start += (size_t)n;
		tx_len -= (size_t)n;
	}
	tx_start = 0;
	return true;
}

static void pump_input(struct channel *ch)
{
	if (ch->in_len) {
		ssize_t n = write(ch->in_fd, ch->in + ch->in_start, ch->in_len);

		if (n > 0) {
			uint8_t grant[4];

			ch->in_start += (uint32_t)n;
			ch->in_len -= (uint32_t)n;
			put32(grant, (uint32_t)n);
			send_frame(ch->id, FRAME_CREDIT, grant, 4);
		} else if (n < 0 && errno != EAGAIN && errno != EINTR) {
			ch->in_len = 0;
			close_fd(&ch->in_fd);
		}
	}
	if (!ch->in_len && ch->stdin_eof)
		close_fd(&ch->in_fd);
}

static bool may_send(const struct channel *ch)
{
	/* Half of the buffer stays free for control frames. */
	return ch->credit > 0 && tx_room() > sizeof(tx) / 2;
}

/* Returns whether there was something to read. */
static bool pump_output(struct channel *ch, int which)
{
	uint8_t data[MAX_PAYLOAD];
	size_t want = ch->credit < sizeof(data) ? ch->credit : sizeof(data);
	ssize_t n = read(ch->out_fd[which], data, want);

	if (n > 0) {
		ch->credit -= (uint32_t)n;
		send_frame(ch->id, which ? FRAME_STDERR : FRAME_STDOUT, data, (uint32_t)n);
		return true;
	}
	if (n == 0 || (errno != EAGAIN && errno != EINTR))
		close_fd(&ch->out_fd[which]);
	return false;
}

/* The command has ended: pass on what is still in its pipes, then say so. */
static void finish(struct channel *ch)
{
	for (int i = 0; i < 2; i++)
		while (ch->out_fd[i] >= 0) {
			if (!may_send(ch))
				return;
			if (!pump_output(ch, i))
				break;
		}
	uint8_t code[4];
	int status = WIFSIGNALED(ch->status) ? 128 + WTERMSIG(ch->status) : WEXITSTATUS(ch->status);

	put32(code, (uint32_t)status);
	send_frame(ch->id, FRAME_EXIT, code, 4);
	drop_channel(ch);
}

static void reap(void)
{
	struct signalfd_siginfo info;
	int status;
	pid_t pid;

	while (read(signal_fd, &info, sizeof(info)) == sizeof(info))
		;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		for (int i = 0; i < MAX_CHANNELS; i++)
			if (channels[i].used && !channels[i].exited && channels[i].pid == pid) {
				channels[i].exited = true;
				channels[i].status = status;
			}
}

static int open_port(const char *wanted)
{
	char path[300], name[64];
	struct dirent *entry;
	int found = -1;

	for (int tries = 0; tries < 500 && found < 0; tries++) {
		DIR *dir = opendir("/sys/class/virtio-ports");

		while (dir && found < 0 && (entry = readdir(dir))) {
			snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name", entry->d_name);
			FILE *f = fopen(path, "re");
			if (!f)
				continue;
			if (fgets(name, sizeof(name), f)) {
				name[strcspn(name, "\n")] = 0;
				snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
				if (strcmp(name, wanted) == 0)
					found = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
			}
			fclose(f);
		}
		if (dir)
			closedir(dir);
		if (found < 0)
			usleep(20000);
	}
	return found;
}

static void loop(void)
{
	struct pollfd fds[2 + 3 * MAX_CHANNELS];

	for (;;) {
		nfds_t n = 2;

		fds[0] = (struct pollfd){ port, (short)(POLLIN | (tx_len ? POLLOUT : 0)), 0 };
		fds[1] = (struct pollfd){ signal_fd, POLLIN, 0 };
		for (int i = 0; i < MAX_CHANNELS; i++) {
			struct channel *ch = &channels[i];
			if (!ch->used)
				continue;
			if (ch->in_fd >= 0 && ch->in_len)
				fds[n++] = (struct pollfd){ ch->in_fd, POLLOUT, 0 };
			for (int k = 0; k < 2; k++)
				if (ch->out_fd[k] >= 0 && may_send(ch))
					fds[n++] = (struct pollfd){ ch->out_fd[k], POLLIN, 0 };
		}
		if (poll(fds, n, -1) < 0 && errno != EINTR)
			return;
		if (fds[1].revents)
			reap();
		if (fds[0].revents & (POLLHUP | POLLERR)) {
			if (port_is_socket)
				return;
			usleep(20000); /* the host end of the port is closed */
		}
		if ((fds[0].revents & POLLIN) && !pump_port_in() && port_is_socket)
			return;
		for (int i = 0; i < MAX_CHANNELS; i++) {
			struct channel *ch = &channels[i];
			if (!ch->used)
				continue;
			if (ch->in_fd >= 0)
				pump_input(ch);
			for (int k = 0; k < 2; k++)
				if (ch->out_fd[k] >= 0 && may_send(ch))
					pump_output(ch, k);
			if (ch->exited)
				finish(ch);
		}
		if (!pump_port_out() && port_is_socket)
			return;
	}
}

int main(int argc, char **argv)
{
	sigset_t mask;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&mask);
	sigaddset(&mask, SIGCHLD);
	sigprocmask(SIG_BLOCK, &mask, &original_mask);
	signal_fd = signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC);
	if (argc == 3 && strcmp(argv[1], "--fd") == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		port = atoi(argv[2]);
		port_is_socket = true;
		fcntl(port, F_SETFL, fcntl(port, F_GETFL) | O_NONBLOCK);
		fcntl(port, F_SETFD, FD_CLOEXEC);
	} else if (argc == 2) {
		port = open_port(argv[1]);
	}
	if (port < 0 || signal_fd < 0) {
		fprintf(stderr, "agent: no port; usage: agent PORT-NAME | agent --fd N\n");
		return 2;
	}
	send_hello();
	loop();
	end_all();
	return 0;
}
