// FOR_ROWS(X), FOR_COLUMNS(X), FOR_DIM(X): X(0) X(1) ... with literal numbers, as many as the module is
// compiled for. Loops with [[unroll]] do not do here: NVIDIA's driver (580) unrolls them too late, and arrays of
// matrices whose indices are not literals by then go to memory (W4A8 at 4096x5120x5120: 73 TOP/s; so: 428).
#ifndef QUANTSPARSE_UNROLL_GLSL
#define QUANTSPARSE_UNROLL_GLSL

// Each is written out, since a macro is not expanded inside its own expansion and these are nested.
#if ROW_TILES == 4
#define FOR_ROWS(X) X(0) X(1) X(2) X(3)
#elif ROW_TILES == 2
#define FOR_ROWS(X) X(0) X(1)
#else
#define FOR_ROWS(X) X(0)
#endif

#if COLUMN_TILES == 4
#define FOR_COLUMNS(X) X(0) X(1) X(2) X(3)
#elif COLUMN_TILES == 2
#define FOR_COLUMNS(X) X(0) X(1)
#else
#define FOR_COLUMNS(X) X(0)
#endif

#if DIM_TILES == 8
#define FOR_DIM(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#else
#define FOR_DIM(X) X(0) X(1) X(2) X(3)
#endif

#endif
