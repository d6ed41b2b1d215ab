/*
 * Stands in for any program, whatever its arguments: it ends at once, or after the seconds that STAND_IN_SECONDS says.
 */
#include <stdlib.h>
#include <unistd.h>

int main(void)
{
	const char *seconds = getenv("STAND_IN_SECONDS");

	if (seconds)
		sleep(atoi(seconds));
	return 0;
}
