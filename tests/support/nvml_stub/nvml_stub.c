/* A libnvidia-ml.so.1 without a GPU: answers from the file $NVIDIA_STUB_SCRIPT,
 * which it reads at every call, so a test can change the machine as it runs.
 *
 *     device UUID NAME TOTAL_MIB FREE_MIB USED_MIB UTIL TEMP POWER_MW MAJOR MINOR
 *     mig INDEX UUID NAME TOTAL_MIB FREE_MIB USED_MIB
 *                                      a part of GPU INDEX, which has a line "figure mig INDEX 1"
 *     error FUNCTION INDEX CODE        INDEX -1: every GPU, or none is meant
 *     hang FUNCTION                    it does not return until the script has the line no more
 *     hang-for-ever FUNCTION           it does not return
 *     crash FUNCTION                   it takes its process with it
 *     figure NAME INDEX VALUE          throttle, persistence, ecc, volatile, aggregate,
 *                                      pending, failed, pages, mig
 *     process INDEX PID USED_MIB       something computes; USED_MIB -1: not known
 *     xid INDEX NUMBER                 happens once, when the line is read first; lines are
 *                                      counted, so that a longer script has new ones
 *
 * An underscore in NAME is a space. Figures are 0 by default, and what GPUs without ECC
 * does not know is NotSupported unless the script has a value. Compiled with -DWITHOUT_POWER
 * it lacks nvmlDeviceGetPowerUsage, with -DOLD_DRIVER what drivers before 535 and older lack.
 */
#define _DEFAULT_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SUCCESS 0
#define UNINITIALIZED 1
#define NOT_SUPPORTED 3
#define NOT_FOUND 6
#define INSUFFICIENT_SIZE 7
#define TIMEOUT 10
#define GPU_IS_LOST 15
#define XID_CRITICAL 8
#define NOT_AVAILABLE (~0ULL)
/* The "index" of a part of a GPU: FIRST_PART + PARTS * the GPU's + its number. */
#define FIRST_PART 1000
#define PARTS 8

typedef struct {
  char uuid[96], name[96];
  unsigned long long total, free, used;
  unsigned util, temp, power;
  int major, minor;
} device_t;
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned gpu, memory; } utilization_t;

/* Counted, as by the driver: two users of one process do not end each other. */
static int initialized;
/* By index: whether a GPU's events are watched. A lost GPU is not watched any more. */
static unsigned watched;

/* Finds device `index`; returns the number of devices. */
static int find_device(int index, device_t *found) {
  char line[512];
  int count = 0;
  FILE *file = fopen(getenv("NVIDIA_STUB_SCRIPT"), "r");
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

/* Finds a part of a GPU by its "index"; returns whether there is one. */
static int find_part(int index, device_t *found) {
  char line[512];
  int gpu, number = 0, result = 0;
  FILE *file = fopen(getenv("NVIDIA_STUB_SCRIPT"), "r");
  if (!file) return 0;
  while (!result && fgets(line, sizeof line, file)) {
    device_t d = {0};
    if (sscanf(line, "mig %d %95s %95s %llu %llu %llu", &gpu, d.uuid, d.name, &d.total, &d.free, &d.used) != 6 ||
        gpu != (index - FIRST_PART) / PARTS || number++ != (index - FIRST_PART) % PARTS)
      continue;
    for (char *c = d.name; *c; c++)
      if (*c == '_') *c = ' ';
    *found = d;
    result = 1;
  }
  fclose(file);
  return result;
}

/* Whether the script has this word about a function. */
static int told(const char *wanted, const char *function) {
  char line[512], word[128], name[128];
  int found = 0;
  FILE *file = fopen(getenv("NVIDIA_STUB_SCRIPT"), "r");
  if (!file) return 0;
  while (fgets(line, sizeof line, file))
    if (sscanf(line, "%127s %127s", word, name) == 2 && !strcmp(word, wanted) && !strcmp(name, function))
      found = 1;
  fclose(file);
  return found;
}

static void misbehave(const char *function) {
  while (told("hang-for-ever", function)) pause();
  while (told("hang", function)) usleep(20000);
  if (told("crash", function)) raise(SIGSEGV);
}

/* The error that the script has for a function of a device. */
static int scripted(const char *function, int index) {
  char line[512], name[128];
  int at, code, result = SUCCESS;
  misbehave(function);
  FILE *file = fopen(getenv("NVIDIA_STUB_SCRIPT"), "r");
  if (!file) return SUCCESS;
  while (fgets(line, sizeof line, file))
    if (sscanf(line, "error %127s %d %d", name, &at, &code) == 3 && !strcmp(name, function) &&
        (at == -1 || at == index))
      result = code;
  fclose(file);
  return result;
}

/* Reads a value of the script, from its last line with that name. Returns whether there is such a line. */
static int figure(const char *wanted, int index, unsigned long long *value) {
  char line[512], name[128];
  int at, found = 0;
  unsigned long long read;
  FILE *file = fopen(getenv("NVIDIA_STUB_SCRIPT"), "r");
  if (!file) return 0;
  while (fgets(line, sizeof line, file))
    if (sscanf(line, "figure %127s %d %llu", name, &at, &read) == 3 && !strcmp(name, wanted) &&
        (at == -1 || at == index)) {
      *value = read;
      found = 1;
    }
  fclose(file);
  return found;
}

static int enter(const char *function, int index) {
  int code = scripted(function, index);
  if (code) {
    if (code == UNINITIALIZED) initialized = 0;
    if (code == GPU_IS_LOST && index >= 0) watched &= ~(1u << index);
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
  if ((int)(long)(handle) - 1 >= FIRST_PART) {        \
    if (!find_part((int)(long)(handle) - 1, &d)) return NOT_FOUND; \
  } else if (find_device((int)(long)(handle) - 1, &d) == 0) return NOT_FOUND
/* What a driver knows only of whole GPUs. */
#define WHOLE(handle)                                 \
  DEVICE(handle);                                     \
  if ((int)(long)(handle) - 1 >= FIRST_PART) return NOT_SUPPORTED

const char *nvmlErrorString(int code) { return code ? "stub error" : "success"; }

int nvmlInitWithFlags(unsigned flags) {
  (void)flags;
  int code = scripted(__func__, -1);
  initialized = code == SUCCESS ? initialized + 1 : 0;
  return code;
}
int nvmlShutdown(void) { ENTER(-1); initialized--; return SUCCESS; }
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
  WHOLE(handle);
  *out = (utilization_t){d.util, 0};
  return SUCCESS;
}
int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned *out) {
  (void)sensor;
  WHOLE(handle);
  *out = d.temp;
  return SUCCESS;
}
#ifndef WITHOUT_POWER
int nvmlDeviceGetPowerUsage(void *handle, unsigned *out) {
  WHOLE(handle);
  *out = d.power;
  return SUCCESS;
}
#endif
int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) {
  WHOLE(handle);
  *major = d.major;
  *minor = d.minor;
  return SUCCESS;
}

#define FIGURE(handle, name, out, missing)                                    \
  do {                                                                        \
    unsigned long long value = 0;                                             \
    WHOLE(handle);                                                            \
    if (!figure((name), (int)(long)(handle) - 1, &value) && (missing)) return (missing); \
    *(out) = value;                                                           \
    return SUCCESS;                                                           \
  } while (0)

int nvmlDeviceGetCurrentClocksThrottleReasons(void *handle, unsigned long long *out) {
  FIGURE(handle, "throttle", out, SUCCESS);
}
int nvmlDeviceGetPersistenceMode(void *handle, int *out) { FIGURE(handle, "persistence", out, SUCCESS); }
int nvmlDeviceGetEccMode(void *handle, int *now, int *pending) {
  *pending = 0;
  FIGURE(handle, "ecc", now, NOT_SUPPORTED);
}
int nvmlDeviceGetTotalEccErrors(void *handle, int type, int counter, unsigned long long *out) {
  if (type != 1) return NOT_SUPPORTED;
  FIGURE(handle, counter ? "aggregate" : "volatile", out, SUCCESS);
}
int nvmlDeviceGetRetiredPagesPendingStatus(void *handle, int *out) {
  FIGURE(handle, "pages", out, NOT_SUPPORTED);
}

typedef struct { unsigned pid; unsigned long long used; unsigned instance, compute; } process_t;

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, process_t *out) {
  char line[512];
  unsigned room = *count, found = 0;
  int at, pid;
  long long used;
  DEVICE(handle);
  FILE *file = fopen(getenv("NVIDIA_STUB_SCRIPT"), "r");
  if (!file) return SUCCESS;
  while (fgets(line, sizeof line, file))
    if (sscanf(line, "process %d %d %lld", &at, &pid, &used) == 3 && at == (int)(long)handle - 1) {
      if (out && found < room)
        out[found] = (process_t){(unsigned)pid, used < 0 ? NOT_AVAILABLE : (unsigned long long)used << 20, 0, 0};
      found++;
    }
  fclose(file);
  *count = found;
  return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}

#ifndef OLD_DRIVER
int nvmlDeviceGetMigMode(void *handle, unsigned *now, unsigned *pending) {
  unsigned long long value = 0;
  WHOLE(handle);
  if (!figure("mig", (int)(long)handle - 1, &value)) return NOT_SUPPORTED;
  *now = *pending = (unsigned)value;
  return SUCCESS;
}
int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *out) {
  WHOLE(handle);
  *out = 7;
  return SUCCESS;
}
int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned number, void **out) {
  device_t part;
  int index = FIRST_PART + PARTS * ((int)(long)handle - 1) + (int)number;
  WHOLE(handle);
  if (!find_part(index, &part)) return NOT_FOUND;
  *out = (void *)(long)(index + 1);
  return SUCCESS;
}
int nvmlDeviceGetCurrentClocksEventReasons(void *handle, unsigned long long *out) {
  FIGURE(handle, "throttle", out, SUCCESS);
}
int nvmlDeviceGetRemappedRows(void *handle, unsigned *corrected, unsigned *uncorrected, unsigned *pending,
                              unsigned *failed) {
  unsigned long long waits = 0, broke = 0;
  int index = (int)(long)handle - 1;
  WHOLE(handle);
  int known = figure("pending", index, &waits);
  known |= figure("failed", index, &broke);
  *corrected = *uncorrected = 0;
  *pending = (unsigned)waits;
  *failed = (unsigned)broke;
  return known ? SUCCESS : NOT_SUPPORTED;
}

typedef struct {
  void *device;
  unsigned long long type, data;
  unsigned instance, compute;
} event_t;
static unsigned taken;

int nvmlDeviceGetSupportedEventTypes(void *handle, unsigned long long *out) {
  WHOLE(handle);
  *out = XID_CRITICAL | 1;
  return SUCCESS;
}
int nvmlEventSetCreate(void **out) { ENTER(-1); *out = &watched; watched = 0; return SUCCESS; }
int nvmlEventSetFree(void *set) { ENTER(-1); (void)set; return SUCCESS; }
int nvmlDeviceRegisterEvents(void *handle, unsigned long long types, void *set) {
  WHOLE(handle);
  if (set != &watched || types != XID_CRITICAL) return NOT_SUPPORTED;
  watched |= 1u << ((int)(long)handle - 1);
  return SUCCESS;
}
int nvmlEventSetWait_v2(void *set, event_t *out, unsigned timeout_ms) {
  char line[512];
  int at, number, result = TIMEOUT;
  unsigned line_number = 0;
  (void)timeout_ms;
  ENTER(-1);
  if (set != &watched) return NOT_SUPPORTED;
  FILE *file = fopen(getenv("NVIDIA_STUB_SCRIPT"), "r");
  if (!file) return TIMEOUT;
  while (result == TIMEOUT && fgets(line, sizeof line, file))
    if (sscanf(line, "xid %d %d", &at, &number) == 2 && line_number++ >= taken) {
      taken++;
      if (!(watched & (1u << at))) continue;
      *out = (event_t){(void *)(long)(at + 1), XID_CRITICAL, (unsigned long long)number, 0, 0};
      result = SUCCESS;
    }
  fclose(file);
  return result;
}
#endif
