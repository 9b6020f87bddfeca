#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
bool probe(size_t size, uint64_t value);
