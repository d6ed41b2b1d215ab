/*
 * Many short connections on the loopback. Without arguments a server, which writes its port; with a port and a number a
 * client with some threads, each of whose connections sends a byte. It writes how many were made.
 */
#include <arpa/inet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define THREADS 4

static struct sockaddr_in address = { .sin_family = AF_INET };
static atomic_int left, made;
static int listener;

static void *serve(void *unused)
{
	char byte;
	int fd;

	while ((fd = accept(listener, NULL, NULL)) >= 0) {
		while (read(fd, &byte, 1) == 1)
			;
		close(fd);
	}
	return unused;
}

static void *connect_many(void *unused)
{
	while (atomic_fetch_sub(&left, 1) > 0) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);

		if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 && write(fd, "x", 1) == 1)
			atomic_fetch_add(&made, 1);
		close(fd);
	}
	return unused;
}

int main(int argc, char **argv)
{
	socklen_t length = sizeof(address);
	pthread_t threads[THREADS];

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (argc > 2) {
		address.sin_port = htons(atoi(argv[1]));
		atomic_store(&left, atoi(argv[2]));
	} else {
		listener = socket(AF_INET, SOCK_STREAM, 0);
		if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 4096))
			return 1;
		getsockname(listener, (struct sockaddr *)&address, &length);
		printf("%d\n", ntohs(address.sin_port));
		fflush(stdout);
	}
	for (int i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, argc > 2 ? connect_many : serve, NULL);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	printf("%d\n", atomic_load(&made));
	return 0;
}
