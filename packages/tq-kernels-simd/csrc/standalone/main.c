/* The kernels without Python, for emulators: `driver` lists the levels and the one chosen here, `driver LEVEL CASES` runs every
 * case of the file at that level and compares bit for bit. Exit 0 all agree, 1 some differ, 2 bad input, 3 no such level. */
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

typedef struct blob {
    char *data;
    size_t bytes;
} blob;

static blob next_blob(FILE *file) {
    uint64_t bytes;
    if (fread(&bytes, sizeof bytes, 1, file) != 1 || bytes > (uint64_t)1 << 31) {
        fprintf(stderr, "the file of cases ends within case %zu\n", case_number);
        exit(2);
    }
    blob it = {tq_guarded((size_t)bytes), (size_t)bytes};
    if (fread(it.data, 1, it.bytes, file) != it.bytes) {
        fprintf(stderr, "the file of cases ends within case %zu\n", case_number);
        exit(2);
    }
    return it;
}

/* The plan in an aligned buffer, as the Python module keeps it. */
static tq_plan next_plan(FILE *file, int refused) {
    blob it = next_blob(file);
    void *copy = tq_aligned(it.bytes);
    if (!copy) exit(2);
    memcpy(copy, it.data, it.bytes);
    tq_plan plan;
    if (it.bytes > 8) { /* Python always makes an aligned copy, so that this is the only place to see one that is not */
        char *between = tq_aligned(it.bytes + 8);
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

static void rotate_case(FILE *file) {
    tq_plan plan = next_plan(file, 0);
    blob inverse = next_blob(file), x = next_blob(file), expected = next_blob(file);
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
    tq_aligned_free(row);
}

static void encode_case(FILE *file) {
    tq_plan plan = next_plan(file, 0);
    blob dtype = next_blob(file), x = next_blob(file);
    blob packed = next_blob(file), scales = next_blob(file), gammas = next_blob(file);
    size_t rows = scales.bytes / sizeof(float);
    for (int threads = 1; threads <= 2; threads++) {
        tq_encode_job job = {&plan, x.data, *dtype.data, tq_guarded(packed.bytes), tq_guarded(scales.bytes),
                             gammas.bytes ? tq_guarded(gammas.bytes) : NULL};
        if (tq_parallel(threads, rows, 1, tq_encode_rows, &job)) exit(2);
        tq_same("encoded rows", job.packed, packed.data, packed.bytes);
        tq_same("scales", job.scales, scales.data, scales.bytes);
        if (gammas.bytes) tq_same("residual norms", job.gammas, gammas.data, gammas.bytes);
    }
    tq_compare_slots(&tq_active, &plan, *dtype.data, x.data, rows);
}

static void decode_case(FILE *file) {
    tq_plan plan = next_plan(file, 0);
    blob packed = next_blob(file), scales = next_blob(file), expected = next_blob(file);
    tq_decode_job job = {&plan, (const uint8_t *)packed.data, plan.row_bytes, (const float *)scales.data,
                         tq_guarded(expected.bytes)};
    if (tq_parallel(2, scales.bytes / sizeof(float), 1, tq_decode_rows, &job)) exit(2);
    tq_same("decoded rows", job.out, expected.data, expected.bytes);
}

static int run_cases(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        return 2;
    }
    uint32_t kind;
    for (; fread(&kind, sizeof kind, 1, file) == 1; case_number++) {
        if (kind == CASE_ROTATE) rotate_case(file);
        else if (kind == CASE_ENCODE) encode_case(file);
        else if (kind == CASE_DECODE) decode_case(file);
        else if (kind == CASE_REFUSED) next_plan(file, 1);
        else return 2;
    }
    fclose(file);
    tq_compare_scores(&tq_active);
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
    return run_cases(arguments[2]);
}
