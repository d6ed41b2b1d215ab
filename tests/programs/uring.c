/*
 * A TCP connection by io_uring alone: connect to a port of the loopback, send argv[2] bytes, receive until the other end
 * closes. Writes how many bytes were received. With `accept` alone: accepts a connection of its own and receives what it sends.
 */
#include <arpa/inet.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct io_uring_params params;
static unsigned *sq_tail, *sq_array, *cq_head, *cq_tail;
static struct io_uring_sqe *sqes;
static struct io_uring_cqe *cqes;
static int ring;

static int start(void)
{
	char *sq, *cq;

	ring = syscall(SYS_io_uring_setup, 8, &params);
	if (ring < 0)
		return -1;
	sq = mmap(NULL, params.sq_off.array + params.sq_entries * 4, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
	cq = mmap(NULL, params.cq_off.cqes + params.cq_entries * sizeof(*cqes), PROT_READ | PROT_WRITE, MAP_SHARED, ring,
		  IORING_OFF_CQ_RING);
	sqes = mmap(NULL, params.sq_entries * sizeof(*sqes), PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
	if (sq == MAP_FAILED || cq == MAP_FAILED || sqes == MAP_FAILED)
		return -1;
	sq_tail = (unsigned *)(sq + params.sq_off.tail);
	sq_array = (unsigned *)(sq + params.sq_off.array);
	cq_head = (unsigned *)(cq + params.cq_off.head);
	cq_tail = (unsigned *)(cq + params.cq_off.tail);
	cqes = (struct io_uring_cqe *)(cq + params.cq_off.cqes);
	return 0;
}

/* Asks one thing and waits for its result. */
static int ask(int operation, int fd, void *address, unsigned length, unsigned long offset)
{
	unsigned tail = *sq_tail, at = tail % params.sq_entries;
	struct io_uring_sqe *sqe = &sqes[at];
	int result;

	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = operation;
	sqe->fd = fd;
	sqe->addr = (unsigned long)address;
	sqe->len = length;
	sqe->off = offset;
	sq_array[at] = at;
	__atomic_store_n(sq_tail, tail + 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
		return -1;
	if (*cq_head == __atomic_load_n(cq_tail, __ATOMIC_ACQUIRE))
		return -1;
	result = cqes[*cq_head % params.cq_entries].res;
	__atomic_store_n(cq_head, *cq_head + 1, __ATOMIC_RELEASE);
	return result;
}

static int accept_own(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0), accepted;
	char buffer[64];

	if (bind(listener, (void *)&address, length) || listen(listener, 1) || getsockname(listener, (void *)&address, &length) ||
	    connect(client, (void *)&address, length) || write(client, "12345", 5) != 5)
		return 4;
	accepted = ask(IORING_OP_ACCEPT, listener, NULL, 0, 0);
	if (accepted < 0 || ask(IORING_OP_RECV, accepted, buffer, sizeof(buffer), 0) != 5)
		return 5;
	close(client);
	close(accepted);
	return 0;
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	static char buffer[65536];
	int left = argc > 2 ? atoi(argv[2]) : 1, received = 0, got;
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	address.sin_port = htons(argc > 1 ? atoi(argv[1]) : 0);
	if (start())
		return 77; /* this kernel has no io_uring, or does not let us */
	if (argc > 1 && strcmp(argv[1], "accept") == 0)
		return accept_own();
	if (ask(IORING_OP_CONNECT, fd, &address, 0, sizeof(address)) != 0)
		return 2;
	while (left > 0) {
		got = ask(IORING_OP_SEND, fd, buffer, left < (int)sizeof(buffer) ? left : (int)sizeof(buffer), 0);
		if (got <= 0)
			return 3;
		left -= got;
	}
	shutdown(fd, SHUT_WR);
	while ((got = ask(IORING_OP_RECV, fd, buffer, sizeof(buffer), 0)) > 0)
		received += got;
	printf("%d\n", received);
	return 0;
}
