/* A stand-in for libedgetpu: an external TFLite delegate that takes every "edgetpu-custom-op" and copies the bytes of
 * its input to its output. Options make it fail the ways the real one does:
 *   fail = create | create-silently | prepare | invoke | abort | hang
 *   invokes = N   then the device is gone: every later invoke fails
 * Where the environment names a file (FAKE_EDGETPU), what stands in it now is the way it fails, at every step anew: so a
 * device can die while it runs, also with "abort" or "hang" in the middle of an invoke, and come back. "invokeN" there: the
 * process's invokes after the first N fail; "slow": each takes 3 ms.
 * The structures repeat the C ABI of tensorflow/lite/core/c/common.h as far as they are used here; the last two words of
 * registration leave room for fields that newer runtimes have appended.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef enum { OK = 0, ERROR = 1 } Status;
typedef struct { int size; int data[]; } IntArray;
typedef struct {
  int type;
  void *data;
  IntArray *dims;
  float scale;
  int32_t zero_point;
  int allocation_type;
  size_t bytes;
  const void *allocation;
  const char *name;
  void *delegate;
  int buffer_handle;
  char data_is_stale, is_variable;
  int quantization_type;
  void *quantization_params;
  void *sparsity;
  const IntArray *dims_signature;
} Tensor;
typedef struct { IntArray *inputs, *outputs, *intermediates, *temporaries; void *user_data; } Node;
typedef struct Context Context;
typedef struct {
  void *(*init)(Context *, const char *, size_t);
  void (*free)(Context *, void *);
  Status (*prepare)(Context *, Node *);
  Status (*invoke)(Context *, Node *);
  const char *(*profiling_string)(const Context *, const Node *);
  int32_t builtin_code;
  const char *custom_name;
  int version;
  void *external;
  void *async_kernel;
  uint64_t later[2];
} Registration;
typedef struct Delegate {
  void *data;
  Status (*prepare)(Context *, struct Delegate *);
  void *copy_from, *copy_to, *free_handle;
  int64_t flags;
  void *opaque;
} Delegate;
struct Context {
  size_t n_tensors;
  Status (*execution_plan)(Context *, IntArray **);
  Tensor *tensors;
  void *impl;
  void *resize_tensor;
  void (*report_error)(Context *, const char *, ...);
  void *add_tensors;
  Status (*node_and_registration)(Context *, int, Node **, Registration **);
  Status (*replace_nodes)(Context *, Registration, const IntArray *, Delegate *);
};

typedef struct { Delegate base; char fail[32]; long invokes; } Fake;

/* How it fails now: by the file, else by the option. */
static const char *failing(Fake *fake) {
  static char word[32];
  const char *path = getenv("FAKE_EDGETPU");
  FILE *file = path ? fopen(path, "r") : NULL;
  if (!file) return fake->fail;
  if (fscanf(file, "%31s", word) != 1) word[0] = 0;
  fclose(file);
  return word;
}

static void fail_hard(const char *how) {
  if (!strcmp(how, "abort")) abort();
  if (!strcmp(how, "hang")) sleep(600);
  if (!strcmp(how, "slow")) usleep(3000);
}

static void *kernel_init(Context *context, const char *buffer, size_t length) {
  (void)context, (void)length;
  return *(Delegate *const *)buffer; /* the first field of the delegate's parameters */
}

static void kernel_free(Context *context, void *data) { (void)context, (void)data; }

static Status kernel_prepare(Context *context, Node *node) {
  (void)context, (void)node;
  return OK;
}

static Status kernel_invoke(Context *context, Node *node) {
  Fake *fake = node->user_data;
  static long done;
  const char *how = failing(fake);
  fail_hard(how);
  if ((!strncmp(how, "invoke", 6) && done >= atol(how + 6)) || fake->invokes == 0) {
    context->report_error(context, "USB transfer error 2 [LibUsbDataOutCallback]");
    return ERROR;
  }
  if (fake->invokes > 0) fake->invokes--;
  done++;
  const Tensor *in = &context->tensors[node->inputs->data[0]];
  const Tensor *out = &context->tensors[node->outputs->data[0]];
  if (in->bytes != out->bytes) return ERROR;
  memcpy(out->data, in->data, in->bytes);
  return OK;
}

static Status prepare(Context *context, Delegate *delegate) {
  if (!strcmp(failing((Fake *)delegate), "prepare")) {
    context->report_error(context, "Internal: Executable's runtime version does not match");
    return ERROR;
  }
  IntArray *plan;
  if (context->execution_plan(context, &plan) != OK) return ERROR;
  IntArray *taken = malloc(sizeof(IntArray) + sizeof(int) * (size_t)plan->size);
  taken->size = 0;
  for (int i = 0; i < plan->size; i++) {
    Node *node;
    Registration *registration;
    if (context->node_and_registration(context, plan->data[i], &node, &registration) != OK) return ERROR;
    const char *name = registration->custom_name;
    if (name && !strcmp(name, "edgetpu-custom-op")) taken->data[taken->size++] = plan->data[i];
  }
  Registration kernel = {0};
  kernel.init = kernel_init;
  kernel.free = kernel_free;
  kernel.prepare = kernel_prepare;
  kernel.invoke = kernel_invoke;
  kernel.custom_name = "FakeEdgeTpu";
  kernel.version = 1;
  Status status = context->replace_nodes(context, kernel, taken, delegate);
  free(taken);
  return status;
}

Delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t n, void (*report)(const char *)) {
  Fake *fake = calloc(1, sizeof *fake);
  fake->invokes = -1;
  for (size_t i = 0; i < n; i++) {
    if (!strcmp(keys[i], "fail")) strncpy(fake->fail, values[i], sizeof fake->fail - 1);
    if (!strcmp(keys[i], "invokes")) fake->invokes = atol(values[i]);
  }
  const char *how = failing(fake);
  fail_hard(how);
  if (!strncmp(how, "create", 6)) {
    if (!strcmp(how, "create")) report("no Edge TPU device is attached");
    free(fake);
    return NULL;
  }
  fake->base.prepare = prepare;
  fake->base.flags = 1; /* dynamic tensors allowed: else the unknown operator is prepared before we can take it */
  return &fake->base;
}

void tflite_plugin_destroy_delegate(Delegate *delegate) { free(delegate); }
