/* A libnvidia-ml.so.1 without a GPU: answers from the file $NVML_STUB_SCRIPT,
 * which it reads at every call, so a test can change the machine as it runs.
 *
 *     device UUID NAME TOTAL_MIB FREE_MIB USED_MIB UTIL TEMP POWER_MW MAJOR MINOR
 *     error FUNCTION INDEX CODE        INDEX -1: every GPU, or none is meant
 *
 * An underscore in NAME is a space. Compiled with -DWITHOUT_POWER it lacks
 * nvmlDeviceGetPowerUsage, as an old driver may.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SUCCESS 0
#define UNINITIALIZED 1
#define NOT_FOUND 6

typedef struct {
  char uuid[96], name[96];
  unsigned long long total, free, used;
  unsigned util, temp, power;
  int major, minor;
} device_t;
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned gpu, memory; } utilization_t;

static int initialized;

/* Finds device `index`; returns how many there are. */
static int find_device(int index, device_t *found) {
  char line[512];
  int count = 0;
  FILE *file = fopen(getenv("NVML_STUB_SCRIPT"), "r");
  if (!file) return 0;
  while (fgets(line, sizeof line, file)) {
    device_t d;
    if (sscanf(line, "device %95s %95s %llu %llu %llu %u %u %u %d %d", d.uuid, d.name, &d.total, &d.free,
               &d.used, &d.util, &d.temp, &d.power, &d.major, &d.minor) != 10)
      continue;
    for (char *c = d.name; *c; c++)
      if (*c == '_') *c = ' ';
    if (count++ == index) *found = d;
  }
  fclose(file);
  return count;
}

/* The error that the script has for a function of a device. */
static int scripted(const char *function, int index) {
  char line[512], name[128];
  int at, code, result = SUCCESS;
  FILE *file = fopen(getenv("NVML_STUB_SCRIPT"), "r");
  if (!file) return SUCCESS;
  while (fgets(line, sizeof line, file))
    if (sscanf(line, "error %127s %d %d", name, &at, &code) == 3 && !strcmp(name, function) &&
        (at == -1 || at == index))
      result = code;
  fclose(file);
  return result;
}

static int enter(const char *function, int index) {
  int code = scripted(function, index);
  if (code) {
    if (code == UNINITIALIZED) initialized = 0;
    return code;
  }
  return initialized ? SUCCESS : UNINITIALIZED;
}

#define ENTER(index)                                  \
  do {                                                \
    int code = enter(__func__, (index));              \
    if (code) return code;                            \
  } while (0)
#define DEVICE(handle)                                \
  device_t d = {0};                                   \
  ENTER((int)(long)(handle) - 1);                     \
  if (find_device((int)(long)(handle) - 1, &d) == 0) return NOT_FOUND

const char *nvmlErrorString(int code) { return code ? "stub error" : "success"; }

int nvmlInitWithFlags(unsigned flags) {
  (void)flags;
  int code = scripted(__func__, -1);
  initialized = code == SUCCESS;
  return code;
}
int nvmlShutdown(void) { ENTER(-1); initialized = 0; return SUCCESS; }
int nvmlSystemGetDriverVersion(char *out, unsigned size) {
  ENTER(-1);
  snprintf(out, size, "550.54.15");
  return SUCCESS;
}
int nvmlSystemGetCudaDriverVersion(int *out) { ENTER(-1); *out = 12040; return SUCCESS; }
int nvmlDeviceGetCount_v2(unsigned *out) {
  device_t d;
  ENTER(-1);
  *out = (unsigned)find_device(-1, &d);
  return SUCCESS;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out) {
  ENTER((int)index);
  *out = (void *)(long)(index + 1);
  return SUCCESS;
}
int nvmlDeviceGetName(void *handle, char *out, unsigned size) {
  DEVICE(handle);
  snprintf(out, size, "%s", d.name);
  return SUCCESS;
}
int nvmlDeviceGetUUID(void *handle, char *out, unsigned size) {
  DEVICE(handle);
  snprintf(out, size, "%s", d.uuid);
  return SUCCESS;
}
int nvmlDeviceGetMemoryInfo(void *handle, memory_t *out) {
  DEVICE(handle);
  *out = (memory_t){d.total << 20, d.free << 20, d.used << 20};
  return SUCCESS;
}
int nvmlDeviceGetUtilizationRates(void *handle, utilization_t *out) {
  DEVICE(handle);
  *out = (utilization_t){d.util, 0};
  return SUCCESS;
}
int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned *out) {
  (void)sensor;
  DEVICE(handle);
  *out = d.temp;
  return SUCCESS;
}
#ifndef WITHOUT_POWER
int nvmlDeviceGetPowerUsage(void *handle, unsigned *out) {
  DEVICE(handle);
  *out = d.power;
  return SUCCESS;
}
#endif
int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) {
  DEVICE(handle);
  *major = d.major;
  *minor = d.minor;
  return SUCCESS;
}
