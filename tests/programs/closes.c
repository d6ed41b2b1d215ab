/*
 * Opens a file many times while another thread closes the descriptors: some are gone before the call that opened them
 * has returned. Writes how many opens succeeded.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static atomic_int ended;

static void *close_all(void *unused)
{
	while (!atomic_load(&ended))
		close(3);
	return unused;
}

int main(int argc, char **argv)
{
	int times = argc > 1 ? atoi(argv[1]) : 1, opened = 0;
	pthread_t thread;

	pthread_create(&thread, NULL, close_all, NULL);
	while (times-- > 0) {
		int fd = open("raced", O_RDONLY);

		opened += fd >= 0;
		if (fd > 3)
			close(fd);
	}
	atomic_store(&ended, 1);
	pthread_join(thread, NULL);
	printf("%d\n", opened);
	return 0;
}
