/* Stands in for NVIDIA's libnvidia-ml.so.1 where there is no card: the functions pynvml calls, with the values of a file.
 *
 * The file's path is in AZAION_TEST_NVML; each call reads it anew, so that a test changes the cards while they are
 * watched. Lines are `key value`; a key may be followed by @N for card N. A value of `-` means: this card does not have
 * it. `init 999` lets nvmlInit fail with that code; `hang 1` blocks every call for ever, as a card off the bus does. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, LOST = 15 };
typedef struct { unsigned int gpu, memory; } Utilization;
typedef struct { unsigned long long total, free, used; } Memory;

static int find(const char *key, char *value, size_t size) {
    const char *path = getenv("AZAION_TEST_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[256];
    int found = 0;
    if (!file) return 0;
    while (fgets(line, sizeof line, file)) {
        char *space = strchr(line, ' ');
        if (!space) continue;
        *space = 0;
        space[strcspn(space + 1, "\n") + 1] = 0;
        if (!strcmp(line, "hang") && !strcmp(space + 1, "1")) for (;;) pause();
        if (!strcmp(line, key)) { snprintf(value, size, "%s", space + 1); found = 1; }
    }
    fclose(file);
    return found;
}

static int text(void *device, const char *key, char *value, size_t size) {
    char own[128];
    int found;
    snprintf(own, sizeof own, "%s@%d", key, (int)(long)device - 1);
    found = find(own, value, size) || find(key, value, size);
    if (!found || !strcmp(value, "-")) return NOT_SUPPORTED;
    return !strcmp(value, "lost") ? LOST : SUCCESS;
}

static int number(void *device, const char *key, unsigned long long *value) {
    char shown[128];
    int code = text(device, key, shown, sizeof shown);
    if (code == SUCCESS) *value = strtoull(shown, NULL, 0);
    return code;
}

static int number32(void *device, const char *key, unsigned int *value) {
    unsigned long long wide = 0;
    int code = number(device, key, &wide);
    *value = (unsigned int)wide;
    return code;
}

int nvmlInitWithFlags(unsigned int flags) {
    char value[64];
    (void)flags;
    return find("init", value, sizeof value) ? atoi(value) : SUCCESS;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return code == LOST ? "GPU is lost" : "failed"; }
int nvmlSystemGetDriverVersion(char *value, unsigned int size) { return text(0, "driver", value, size); }
int nvmlDeviceGetCount_v2(unsigned int *count) { return number32(0, "count", count); }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) {
    unsigned int count = 0;
    number32(0, "count", &count);
    *device = (void *)(long)(index + 1);
    return index < count ? SUCCESS : INVALID_ARGUMENT;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    unsigned int count = 0, index;
    char own[128];
    number32(0, "count", &count);
    for (index = 0; index < count; index++) {
        *device = (void *)(long)(index + 1);
        if (text(*device, "uuid", own, sizeof own) == SUCCESS && !strcmp(own, uuid)) return SUCCESS;
    }
    return NOT_FOUND;
}
int nvmlDeviceGetUUID(void *device, char *value, unsigned int size) { return text(device, "uuid", value, size); }
int nvmlDeviceGetName(void *device, char *value, unsigned int size) { return text(device, "name", value, size); }
int nvmlDeviceGetUtilizationRates(void *device, Utilization *found) {
    found->memory = 0;
    return number32(device, "utilization", &found->gpu);
}
int nvmlDeviceGetMemoryInfo(void *device, Memory *found) {
    int code = number(device, "memory_total", &found->total);
    if (code == SUCCESS) code = number(device, "memory_used", &found->used);
    found->free = found->total - found->used;
    return code;
}
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned int *value) {
    (void)sensor;
    return number32(device, "temperature", value);
}
int nvmlDeviceGetPowerUsage(void *device, unsigned int *value) { return number32(device, "power", value); }
int nvmlDeviceGetEnforcedPowerLimit(void *device, unsigned int *value) { return number32(device, "power_limit", value); }
int nvmlDeviceGetFanSpeed(void *device, unsigned int *value) { return number32(device, "fan", value); }
int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *value) {
    return number(device, "throttle", value);
}
int nvmlDeviceGetTotalEccErrors(void *device, int kind, int since, unsigned long long *value) {
    (void)since;
    return number(device, kind == 0 ? "ecc_corrected" : "ecc_uncorrected", value);
}
