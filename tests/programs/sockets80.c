/*
 * Sockets by int 0x80 from a 64-bit process, through socketcall(2) and by their own numbers. Arguments must lie below
 * 4 GiB. Writes the port that it listens on.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

static char *low;

static long call(long number, long a, long b, long c, long d, long e)
{
	long result;

	__asm__ volatile("int $0x80"
			 : "=a"(result)
			 : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
			 : "memory", "r8", "r9", "r10", "r11");
	return result;
}

static long socketcall(int what, int a, long b, long c)
{
	unsigned int *arguments = (unsigned int *)(low + 2048);

	memset(arguments, 0, 24);
	arguments[0] = a;
	arguments[1] = b;
	arguments[2] = c;
	return call(102, what, (long)arguments, 0, 0, 0);
}

int main(void)
{
	struct sockaddr_in *address;
	char *text;
	long listener, client, accepted;
	socklen_t length = sizeof(*address);

	low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	if (low == MAP_FAILED)
		return 1;
	address = (struct sockaddr_in *)low;
	text = low + 1024;
	strcpy(text, "12345");
	address->sin_family = AF_INET;
	address->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	listener = call(359, AF_INET, SOCK_STREAM, 0, 0, 0);
	if (listener < 0 || call(361, listener, (long)address, sizeof(*address), 0, 0) || socketcall(4, listener, 5, 0))
		return 2;
	if (getsockname(listener, (struct sockaddr *)address, &length))
		return 3;
	client = socketcall(1, AF_INET, SOCK_STREAM, 0);
	if (socketcall(3, client, (long)address, sizeof(*address)))
		return 4;
	accepted = call(364, listener, 0, 0, 0, 0);
	if (accepted < 0 || socketcall(9, client, (long)text, 5) != 5 || socketcall(10, accepted, (long)text, 100) != 5)
		return 5;
	printf("%d\n", ntohs(address->sin_port));
	return 0;
}
