/* An input as a little program: numbers taken from its bytes, zeros when they are used up. */
#ifndef FUZZ_INPUT_H
#define FUZZ_INPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct input {
    const uint8_t *at;
    size_t left;
};

/* Something that must hold did not: libFuzzer keeps the input. */
#define MUST(condition)                                                                   \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition);     \
            abort();                                                                      \
        }                                                                                 \
    } while (0)

static inline uint64_t take(struct input *input, size_t bytes) {
    uint64_t value = 0;
    size_t n = bytes < input->left ? bytes : input->left;
    memcpy(&value, input->at, n);
    input->at += n;
    input->left -= n;
    return value;
}

static inline uint8_t take8(struct input *input) {
    return (uint8_t)take(input, 1);
}

static inline void take_bytes(struct input *input, void *to, size_t bytes) {
    size_t n = bytes < input->left ? bytes : input->left;
    memset(to, 0, bytes);
    memcpy(to, input->at, n);
    input->at += n;
    input->left -= n;
}

/* Mostly one of a few interesting values, at times any. */
static inline uint64_t take_of(struct input *input, const uint64_t *values, size_t nr, size_t bytes) {
    uint8_t which = take8(input);
    return which < 224 ? values[which % nr] : take(input, bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

#endif
