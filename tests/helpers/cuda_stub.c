/* A CUDA driver of one "GPU" whose memory is the host's: enough of the driver's interface to run the sessions' code on a
   machine without a GPU. Kernels are functions that a test's engine puts on a stream with stub_enqueue. A stream that is
   captured collects copies and kernels, a graph replays them. Environment: STUB_MEMORY (bytes), STUB_DRIVER (version),
   STUB_NAME, STUB_NO_CAPTURE, STUB_DEVICES. */
#include <stdlib.h>
#include <string.h>

typedef void (*kernel)(void);
typedef struct { void *to; const void *from; size_t size; kernel run; } step;
typedef struct { step steps[256]; int count; } graph;

static size_t used;
static graph *capturing;

static long number(const char *name, long otherwise) { const char *text = getenv(name); return text ? atol(text) : otherwise; }

static int put(step next) {
    if (capturing) { capturing->steps[capturing->count++] = next; return 0; }
    if (next.run) next.run(); else memcpy(next.to, next.from, next.size);
    return 0;
}

int stub_enqueue(kernel run) { step next = {0, 0, 0, run}; return put(next); }
size_t stub_used(void) { return used; }

int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = (int)number("STUB_DRIVER", 13000); return 0; }
int cuDeviceGetCount(int *count) { *count = (int)number("STUB_DEVICES", 1); return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetName(char *name, int length, int device) {
    const char *given = getenv("STUB_NAME");
    strncpy(name, given ? given : "Stub GPU", (size_t)length - 1);
    return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 75 ? 9 : 0; return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)number("STUB_MEMORY", 1L << 30); return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)&used; return 0; }
int cuCtxSetCurrent(void *context) { return context ? 0 : 201; }
int cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    *total = (size_t)number("STUB_MEMORY", 1L << 30);
    *free_bytes = *total - used;
    return 0;
}
int cuMemAlloc_v2(unsigned long long *pointer, size_t size) {
    if (used + size > (size_t)number("STUB_MEMORY", 1L << 30)) return 2;
    size_t *block = malloc(size + 64);
    block[0] = size;
    used += size;
    *pointer = (unsigned long long)(size_t)((char *)block + 64);
    return 0;
}
int cuMemFree_v2(unsigned long long pointer) {
    size_t *block = (size_t *)((char *)(size_t)pointer - 64);
    used -= block[0];
    free(block);
    return 0;
}
int cuMemHostAlloc(void **pointer, size_t size, unsigned flags) { *pointer = malloc(size); return 0; }
int cuMemFreeHost(void *pointer) { free(pointer); return 0; }
int cuMemcpyHtoDAsync_v2(unsigned long long to, const void *from, size_t size, void *stream) {
    step next = {(void *)(size_t)to, from, size, 0};
    return put(next);
}
int cuMemcpyDtoHAsync_v2(void *to, unsigned long long from, size_t size, void *stream) {
    step next = {to, (const void *)(size_t)from, size, 0};
    return put(next);
}
int cuStreamCreate(void **stream, unsigned flags) { *stream = malloc(1); return 0; }
int cuStreamSynchronize(void *stream) { return 0; }
int cuStreamDestroy_v2(void *stream) { free(stream); return 0; }
int cuStreamBeginCapture_v2(void *stream, int mode) {
    if (getenv("STUB_NO_CAPTURE")) return 900;
    capturing = calloc(1, sizeof(graph));
    return 0;
}
int cuStreamEndCapture(void *stream, void **captured) { *captured = capturing; capturing = 0; return *captured ? 0 : 901; }
int cuGraphInstantiateWithFlags(void **executable, void *captured, unsigned long long flags) {
    *executable = malloc(sizeof(graph));
    memcpy(*executable, captured, sizeof(graph));
    return 0;
}
int cuGraphLaunch(void *executable, void *stream) {
    graph *replayed = executable;
    for (int i = 0; i < replayed->count; i++) put(replayed->steps[i]);
    return 0;
}
int cuGraphExecDestroy(void *executable) { free(executable); return 0; }
int cuGraphDestroy(void *captured) { free(captured); return 0; }
int cuEventCreate(void **event, unsigned flags) { *event = malloc(1); return 0; }
int cuEventRecord(void *event, void *stream) { return 0; }
int cuEventSynchronize(void *event) { return 0; }
int cuEventElapsedTime(float *milliseconds, void *first, void *last) { *milliseconds = 0.25f; return 0; }
int cuEventDestroy_v2(void *event) { free(event); return 0; }
int cuGetErrorName(int code, const char **name) {
    *name = code == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : code == 900 ? "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED" : "CUDA_ERROR_UNKNOWN";
    return 0;
}
