/* Stands for libnvinfer.so.11, libnvonnxparser.so.11 and libnvinfer_plugin.so.11: TensorRT's own Python bindings then run
   over TensorRT-RTX's library, which builds engines on a machine without a GPU. The classes of both have one layout; only
   the version that a caller must name differs, so it is asked of the library. Environment: RTX_LIBRARY, RTX_PARSER. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static void *symbol(const char *variable, const char *name) {
    void *library = dlopen(getenv(variable), RTLD_NOW | RTLD_GLOBAL);
    if (!library) { fprintf(stderr, "%s\n", dlerror()); abort(); }
    return dlsym(library, name);
}

static int32_t version(void) { return ((int32_t(*)(void))symbol("RTX_LIBRARY", "getInferLibVersion"))(); }

void *createInferBuilder_INTERNAL(void *logger, int32_t wanted) {
    return ((void *(*)(void *, int32_t))symbol("RTX_LIBRARY", "createInferBuilder_INTERNAL"))(logger, version());
}
void *createInferRuntime_INTERNAL(void *logger, int32_t wanted) {
    return ((void *(*)(void *, int32_t))symbol("RTX_LIBRARY", "createInferRuntime_INTERNAL"))(logger, version());
}
void *createInferRefitter_INTERNAL(void *engine, void *logger, int32_t wanted) {
    return ((void *(*)(void *, void *, int32_t))symbol("RTX_LIBRARY", "createInferRefitter_INTERNAL"))(engine, logger, version());
}
void *getBuilderPluginRegistry(int32_t capability) {
    return ((void *(*)(int32_t))symbol("RTX_LIBRARY", "getBuilderPluginRegistry"))(capability);
}
void *getPluginRegistry(void) { return ((void *(*)(void))symbol("RTX_LIBRARY", "getPluginRegistry"))(); }
void *createNvOnnxParser_INTERNAL(void *network, void *logger, int32_t wanted) {
    return ((void *(*)(void *, void *, int32_t))symbol("RTX_PARSER", "createNvOnnxParser_INTERNAL"))(network, logger, 1);
}
void *createNvOnnxParserRefitter_INTERNAL(void *refitter, void *logger, int32_t wanted) {
    return ((void *(*)(void *, void *, int32_t))symbol("RTX_PARSER", "createNvOnnxParserRefitter_INTERNAL"))(refitter, logger, 1);
}
int32_t getNvOnnxParserVersion(void) { return ((int32_t(*)(void))symbol("RTX_PARSER", "getNvOnnxParserVersion"))(); }
int32_t initLibNvInferPlugins(void *logger, const char *space) { return 1; }
