// The threads of a block as fibers: what each of them knows, and how the scheduler hands them the processor.

#pragma once

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "language.h"
#include "switch.h"

enum shim_state { SHIM_READY, SHIM_AT_BLOCK, SHIM_AT_WARP, SHIM_DONE };

struct shim_fiber {
    void* stack_pointer;
    unsigned char* stack;
    shim_state state;
    unsigned mask;   // of the warp barrier it waits at
    unsigned turn;   // exchanges it took part in
    unsigned block_turn;
    uint3 index;
    unsigned lane, warp;
#ifdef SHIM_UCONTEXT
    ucontext_t context;
#endif
};

static const unsigned SHIM_MOST_THREADS = 1024, SHIM_STACK = 128 * 1024, SHIM_SHARED_BYTES = 256 * 1024, SHIM_GUARD = 256;

static shim_fiber shim_fibers[SHIM_MOST_THREADS];
static shim_fiber shim_scheduler;
static shim_fiber* shim_current;
static unsigned shim_threads;
static uint64_t shim_slots[SHIM_MOST_THREADS / 32][2][32];  // what lanes give to an exchange, by its parity
static int shim_votes[2][SHIM_MOST_THREADS];
alignas(128) static unsigned char shim_shared_bytes[SHIM_SHARED_BYTES + SHIM_GUARD];
static uint3 shim_block_index;
static dim3 shim_block_size, shim_grid_size;
static bool shim_reversed;  // threads run from the last to the first between barriers: shows what a barrier is missing for
static void (*shim_body)(void**);
static void** shim_arguments;

#define threadIdx (shim_current->index)
#define blockIdx shim_block_index
#define blockDim shim_block_size
#define gridDim shim_grid_size
#define warpSize 32

static inline unsigned char* tq_shim_shared() { return shim_shared_bytes; }

static void shim_fiber_main() {
    shim_body(shim_arguments);
    shim_current->state = SHIM_DONE;
}

static void shim_to_scheduler() {
#ifdef SHIM_UCONTEXT
    swapcontext(&shim_current->context, &shim_scheduler.context);
#else
    shim_switch(&shim_current->stack_pointer, shim_scheduler.stack_pointer);
#endif
}

static void shim_enter() {
    shim_fiber_main();
    shim_to_scheduler();
    abort();  // a finished fiber is never resumed
}

static void shim_prepare(shim_fiber* fiber) {
#ifdef SHIM_UCONTEXT
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack;
    fiber->context.uc_stack.ss_size = SHIM_STACK;
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, shim_enter, 0);
#elif defined(__x86_64__)
    void** top = (void**)(fiber->stack + SHIM_STACK);
    *--top = nullptr;           // the ABI wants rsp + 8 to be a multiple of 16 at entry
    *--top = (void*)shim_enter;   // where `ret` goes
    for (int i = 0; i < SHIM_SAVED; i++) *--top = nullptr;
    fiber->stack_pointer = top;
#else
    void** top = (void**)(fiber->stack + SHIM_STACK - 160);
    memset(top, 0, 160);
    top[11] = (void*)shim_enter;  // x30
    fiber->stack_pointer = top;
#endif
}

static void shim_resume(shim_fiber* fiber) {
    shim_current = fiber;
#ifdef SHIM_UCONTEXT
    swapcontext(&shim_scheduler.context, &fiber->context);
#else
    shim_switch(&shim_scheduler.stack_pointer, fiber->stack_pointer);
#endif
}
