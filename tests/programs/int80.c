/*
 * File operations by int 0x80 from a 64-bit process: system calls of another ABI, whose numbers mean other calls in the
 * native table (5 is open here and fstat there). Arguments must lie below 4 GiB.
 */
#include <string.h>
#include <sys/mman.h>

static long call(long number, long a, long b, long c)
{
	long result;

	__asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
	return result;
}

int main(void)
{
	char *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	char *name = low, *text = low + 1024, *other = low + 2048;
	long fd;

	if (low == MAP_FAILED)
		return 1;
	strcpy(name, "by-int80");
	strcpy(other, "by-int80-renamed");
	strcpy(text, "12345");
	fd = call(5, (long)name, 0102 /* O_CREAT | O_RDWR */, 0600);
	if (fd < 0)
		return 2;
	if (call(4, fd, (long)text, 5) != 5)
		return 3;
	if (call(6, fd, 0, 0) != 0)
		return 4;
	if (call(38, (long)name, (long)other, 0) != 0)
		return 5;
	return call(10, (long)other, 0, 0) == 0 ? 0 : 6;
}
