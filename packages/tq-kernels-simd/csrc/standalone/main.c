/* The kernels without Python, for emulators: `driver` lists the levels and the one chosen here, `driver LEVEL CASES` runs every
 * case of the file at that level and compares bit for bit. Exit 0 all agree, 1 some differ, 2 bad input, 3 no such level. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "active.h"
#include "decode/run.h"
#include "encode/run.h"
#include "select.h"
#include "standalone/cases.h"
#include "standalone/slot_cases.h"
#include "threads.h"

static size_t compared, different;
static size_t case_number;

void tq_same(const char *what, const void *got, const void *expected, size_t bytes) {
    compared++;
    if (!memcmp(got, expected, bytes)) return;
    size_t first = 0;
    while (((const char *)got)[first] == ((const char *)expected)[first]) first++;
    if (different++ < 10) printf("case %zu: %s differs from byte %zu of %zu\n", case_number, what, first, bytes);
}

void *tq_guarded(size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = (bytes + page - 1) / page * page;
    char *memory = mmap(NULL, whole + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory + whole, page, PROT_NONE)) {
        perror("guarded memory");
        exit(2);
    }
    return memory + whole - bytes;
}

void tq_near(const char *what, const float *got, const float *expected, size_t count, double tolerance) {
    double difference = 0, length = 0;
    compared++;
    for (size_t i = 0; i < count; i++) {
        difference += pow((double)got[i] - (double)expected[i], 2);
        length += pow((double)expected[i], 2);
    }
    if (difference <= tolerance * tolerance * length) return; /* false for NaN */
    if (different++ < 10) printf("case %zu: %s is off by %g of its length\n", case_number, what, sqrt(difference / length));
}

void *tq_room(size_t bytes) {
    void *memory = tq_aligned(bytes);
    if (!memory) abort();
    memset(memory, 0xA5, bytes);
    return memory;
}

tq_blob tq_next_blob(FILE *file) {
    uint64_t bytes;
    if (fread(&bytes, sizeof bytes, 1, file) != 1 || bytes > (uint64_t)1 << 31) {
        fprintf(stderr, "the file of cases ends within case %zu\n", case_number);
        exit(2);
    }
    tq_blob it = {tq_guarded((size_t)bytes), (size_t)bytes};
    if (fread(it.data, 1, it.bytes, file) != it.bytes) {
        fprintf(stderr, "the file of cases ends within case %zu\n", case_number);
        exit(2);
    }
    return it;
}

static tq_plan next_plan(FILE *file, int refused) {
    tq_blob it = tq_next_blob(file);
    void *copy = tq_aligned(it.bytes + TQ_PLAN_ROOM);
    if (!copy) exit(2);
    memcpy(copy, it.data, it.bytes);
    tq_plan plan;
    if (it.bytes > 8) { /* Python always makes an aligned copy, so that this is the only place to see one that is not */
        char *between = tq_aligned(it.bytes + 8 + TQ_PLAN_ROOM);
        if (!between) exit(2);
        memcpy(between + 4, it.data, it.bytes);
        const char *refusal = tq_plan_read(&plan, between + 4, it.bytes);
        tq_same("refusal of an unaligned plan", &(int){refusal != NULL}, &(int){1}, sizeof(int));
        tq_aligned_free(between);
    }
    const char *fault = tq_plan_read(&plan, copy, it.bytes);
    if (!refused == !fault) return plan;
    printf("case %zu: %s\n", case_number, fault ? fault : "a bad plan was accepted");
    exit(1);
}

tq_plan tq_next_plan(FILE *file) { return next_plan(file, 0); }

static void rotate_case(FILE *file) {
    tq_plan plan = tq_next_plan(file);
    tq_blob inverse = tq_next_blob(file), x = tq_next_blob(file), expected = tq_next_blob(file);
    size_t dim = plan.rotation.dim, padded = TQ_PADDED(dim);
    float *row = tq_aligned(2 * padded * sizeof *row), *out = tq_guarded(x.bytes);
    if (!row) exit(2);
    for (size_t start = 0; start < x.bytes; start += dim * sizeof *row) {
        memcpy(row, x.data + start, dim * sizeof *row);
        (*inverse.data ? tq_active.hadamard.inverse : tq_active.hadamard.forward)(&plan.rotation, row, row + padded);
        tq_same(*inverse.data ? "unrotated row" : "rotated row", row, expected.data + start, dim * sizeof *row);
    }
    for (size_t start = 0; start < x.bytes; start += dim * sizeof *row)
        (*inverse.data ? tq_active.hadamard.inverse_into : tq_active.hadamard.forward_into)(
            &plan.rotation, (const float *)(x.data + start), row, row + padded, out + start / sizeof *row);
    tq_same("rows rotated from array to array", out, expected.data, expected.bytes);
    memset(out, 0, x.bytes);
    tq_active.hadamard.copy_past_cache((const float *)expected.data, out, expected.bytes / sizeof *out);
    tq_active.hadamard.settle();
    tq_same("rows copied past the cache", out, expected.data, expected.bytes);
    tq_aligned_free(row);
}

static void encode_case(FILE *file) {
    tq_plan plan = tq_next_plan(file);
    tq_blob dtype = tq_next_blob(file), x = tq_next_blob(file);
    tq_blob packed = tq_next_blob(file), scales = tq_next_blob(file), gammas = tq_next_blob(file);
    size_t rows = scales.bytes / sizeof(float);
    for (int threads = 1; threads <= 2; threads++) {
        tq_encode_job job = {&plan, x.data, *dtype.data, tq_guarded(packed.bytes), tq_guarded(scales.bytes),
                             gammas.bytes ? tq_guarded(gammas.bytes) : NULL};
        if (tq_parallel(threads, rows, 1, tq_encode_rows, &job)) exit(2);
        tq_same("encoded rows", job.packed, packed.data, packed.bytes);
        tq_same("scales", job.scales, scales.data, scales.bytes);
        if (gammas.bytes) tq_same("residual norms", job.gammas, gammas.data, gammas.bytes);
    }
    if (!plan.book.window && plan.book.bits != TQ_MIXED) tq_compare_slots(&tq_active, &plan, *dtype.data, x.data, rows);
}

static void decode_case(FILE *file) {
    tq_plan plan = tq_next_plan(file);
    tq_blob packed = tq_next_blob(file), scales = tq_next_blob(file), expected = tq_next_blob(file);
    tq_decode_job job = {&plan, (const uint8_t *)packed.data, plan.row_bytes, (const float *)scales.data,
                         tq_guarded(expected.bytes)};
    if (tq_parallel(2, scales.bytes / sizeof(float), 1, tq_decode_rows, &job)) exit(2);
    tq_same("decoded rows", job.out, expected.data, expected.bytes);
}

/* The probes do what they count: a sum of words that the baseline confirms, and some operations. */
static void probe_case(void) {
    tq_table floor;
    float sink = 0;
    tq_select("baseline", &floor);
    uint64_t *words = tq_guarded(16384), got, expected;
    for (uint64_t i = 0; i < 2048; i++) words[i] = i * UINT64_C(0x9E3779B97F4A7C15) >> (i % 7);
    got = tq_active.probe.read(words, 16384 - 256);
    expected = floor.probe.read(words, 16384 - 256);
    tq_same("words read by the probe", &got, &expected, sizeof got);
    tq_same("operations of the probe", &(int){tq_active.probe.fma(100, &sink) >= 3200}, &(int){1}, sizeof(int));
}

static int run_cases(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        return 2;
    }
    uint32_t kind;
    probe_case();
    for (; fread(&kind, sizeof kind, 1, file) == 1; case_number++) {
        if (kind == CASE_ROTATE) rotate_case(file);
        else if (kind == CASE_ENCODE) encode_case(file);
        else if (kind == CASE_DECODE) decode_case(file);
        else if (kind == CASE_REFUSED) next_plan(file, 1);
        else if (kind == CASE_SCORE) tq_score_case(file);
        else if (kind == CASE_ATTEND) tq_attend_case(file);
        else return 2;
    }
    fclose(file);
    printf("%s: %zu cases, %zu comparisons, %zu differ\n", tq_active.isa, case_number, compared, different);
    return different ? 1 : case_number ? 0 : 2;
}

int main(int count, char **arguments) {
    if (count == 1) {
        for (size_t i = 0; i < tq_level_count; i++)
            printf("%s %s\n", tq_levels[i].name, tq_levels[i].runs_here() ? "ok" : tq_levels[i].needs);
        tq_select(NULL, &tq_active);
        printf("chosen %s\n", tq_active.isa);
        return 0;
    }
    if (count != 3) {
        fprintf(stderr, "usage: %s [LEVEL CASES]\n", arguments[0]);
        return 2;
    }
    if (tq_select(arguments[1], &tq_active) < 0 || strcmp(tq_active.isa, arguments[1])) {
        fprintf(stderr, "level %s does not run here\n", arguments[1]);
        return 3;
    }
    tq_compare_score_slots(&tq_active);
    tq_compare_tile_slots(&tq_active);
    return run_cases(arguments[2]);
}
