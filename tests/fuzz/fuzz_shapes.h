/* Commands as the specifications shape them, with anything in their fields, and the data that they point to. Opcodes, identifiers and
 * sizes are numbers here, not the names of csrc: those that it does not know must be refused as well as those it does be done.
 */
#ifndef FUZZ_SHAPES_H
#define FUZZ_SHAPES_H

#include "fuzz_input.h"
#include "core/nvme.h"

#define SHAPE_DATA_PAGE 16u /* where commands' data lies, SHAPE_DATA_PAGES of 4 KiB; below are the rings */
#define SHAPE_DATA_PAGES 64u
#define SHAPE_PAGE_BYTES 4096u

static const uint64_t shape_nsids[] = {1, 2, 3, 4, 0, 0xffffffff, 5, 0xfffffffe, 256, 257};

/* A field that is mostly small. */
static inline uint32_t shape_small(struct input *input) {
    uint8_t kind = take8(input);
    return kind < 200 ? kind % 17 : kind < 240 ? take8(input) : (uint32_t)take(input, 4);
}

/* Where the data of a command is: mostly whole pages, at times anywhere. */
static inline void shape_pointer(struct input *input, struct vn_sqe *cmd) {
    uint8_t kind = take8(input);
    uint64_t page = SHAPE_DATA_PAGE + kind % SHAPE_DATA_PAGES;
    cmd->prp1 = page * SHAPE_PAGE_BYTES;
    cmd->prp2 = (page + 1) * SHAPE_PAGE_BYTES;
    if (kind >= 0xf0)
        cmd->prp1 = take(input, 8) & ~(uint64_t)3;
    if (kind >= 0xe0)
        cmd->prp2 = take(input, 3);
    if (kind >= 0xe8 && kind < 0xf0)
        cmd->prp1 += take8(input) * 4u;
}

/* Numbers of 64 bits, small ones mostly: block addresses, keys. */
static inline uint64_t shape_address(struct input *input) {
    uint8_t kind = take8(input);
    return kind < 220 ? kind : kind < 245 ? take(input, 2) : take(input, 8);
}

static inline uint8_t *shape_data(const struct vn_sqe *cmd, uint8_t *ram) {
    static uint8_t nowhere[SHAPE_PAGE_BYTES];
    uint64_t page = cmd->prp1 / SHAPE_PAGE_BYTES;
    bool ours = page >= SHAPE_DATA_PAGE && page < SHAPE_DATA_PAGE + SHAPE_DATA_PAGES;
    return ours ? ram + page * SHAPE_PAGE_BYTES : nowhere;
}

static inline void shape_put(uint8_t *at, uint64_t value, size_t bytes) {
    memcpy(at, &value, bytes);
}

/* Namespace Management: create with such a structure, or delete. */
static inline void shape_ns_management(struct input *input, struct vn_sqe *cmd, uint8_t *data) {
    uint64_t blocks = shape_address(input);
    cmd->cdw10 = take8(input) % 3;
    cmd->cdw11 = (uint32_t)(take8(input) % 4) << 24; /* command set */
    memset(data, 0, SHAPE_PAGE_BYTES);
    shape_put(data, blocks, 8);
    shape_put(data + 8, take8(input) & 3 ? blocks : shape_address(input), 8);
    data[26] = (uint8_t)shape_small(input); /* FLBAS */
    data[29] = (uint8_t)shape_small(input); /* DPS */
    data[30] = take8(input) & 1;            /* NMIC */
}

static inline void shape_ns_attachment(struct input *input, struct vn_sqe *cmd, uint8_t *data) {
    cmd->cdw10 = take8(input) % 3;
    memset(data, 0, SHAPE_PAGE_BYTES);
    shape_put(data, take8(input) % 4, 2);
    for (uint32_t i = 1; i < 4; i++)
        shape_put(data + 2u * i, take8(input) % 3, 2);
    if (take8(input) > 250)
        shape_put(data, 0xffff, 2);
}

static inline void shape_log_page(struct input *input, struct vn_sqe *cmd) {
    static const uint64_t logs[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0xa, 0xb, 0xc, 0xd, 0xe, 0xf, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15,
                                    0x16, 0x17, 0x18, 0x19, 0x1a, 0x20, 0x70, 0x80, 0x81, 0xbf, 0xc0, 0xca, 0xff};
    uint8_t shape = take8(input);
    cmd->cdw10 = (uint32_t)take_of(input, logs, sizeof(logs) / sizeof(logs[0]), 1);
    cmd->cdw10 |= (uint32_t)(shape & 0x1f) << 8 /* LSP */ | (uint32_t)(shape >> 7) << 15 /* RAE */;
    cmd->cdw10 |= (uint32_t)(shape & 0x20 ? take(input, 2) : take8(input)) << 16; /* NUMDL */
    cmd->cdw11 = (shape & 0x40 ? (uint32_t)take8(input) << 16 : 0) | (shape == 0xff ? take8(input) : 0u);
    cmd->cdw12 = shape & 0x40 ? shape_small(input) * 4 : 0; /* LPO */
    cmd->cdw13 = shape == 0x7f ? shape_small(input) : 0;
    cmd->cdw14 = shape & 1 ? (uint32_t)take(input, 4) : 0;
}

static inline void shape_identify(struct input *input, struct vn_sqe *cmd) {
    static const uint64_t cns[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0xa, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x1a,
                                   0x1b, 0x1c, 0x1d, 0x20};
    cmd->cdw10 = (uint32_t)take_of(input, cns, sizeof(cns) / sizeof(cns[0]), 1) | (uint32_t)(take8(input) % 4) << 16;
    cmd->cdw11 = (uint32_t)(take8(input) % 4) << 24 | take8(input) % 4u;
    cmd->cdw14 = take8(input) % 3;
}

static inline void shape_feature(struct input *input, struct vn_sqe *cmd, uint8_t *data) {
    static const uint64_t features[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 0xa, 0xb, 0xc, 0xd, 0xe, 0xf, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15,
                                        0x16, 0x17, 0x18, 0x19, 0x1a, 0x1d, 0x78, 0x7d, 0x7f, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0xc0};
    uint8_t shape = take8(input);
    cmd->cdw10 = (uint32_t)take_of(input, features, sizeof(features) / sizeof(features[0]), 1);
    cmd->cdw10 |= cmd->opcode == 0x09 ? (uint32_t)(shape & 1) << 31 : (uint32_t)(shape & 7) << 8; /* SV, SEL */
    cmd->cdw11 = shape & 8 ? (uint32_t)take(input, 4) : shape_small(input);
    cmd->cdw12 = shape & 16 ? shape_small(input) : 0;
    if (cmd->opcode == 0x09 && shape & 32)
        take_bytes(input, data, 32);
}

static inline void shape_queue(struct input *input, struct vn_sqe *cmd) {
    uint32_t qid = take8(input) % 4;
    cmd->cdw10 = qid | (take8(input) % 20u) << 16;
    cmd->cdw11 = (take8(input) & 7u) | (take8(input) % 5u) << 16;
    cmd->cdw12 = shape_small(input);
    cmd->prp1 = (8 + qid + (cmd->opcode == 0x05 ? 4u : 0u)) * SHAPE_PAGE_BYTES;
}

static inline void shape_firmware(struct input *input, struct vn_sqe *cmd, uint8_t *data) {
    if (cmd->opcode == 0x10) { /* commit: slot, action, boot partition */
        cmd->cdw10 = take8(input);
        return;
    }
    cmd->cdw10 = take8(input) & 3 ? 0x3ff : shape_small(input);
    cmd->cdw11 = shape_small(input) * (take8(input) & 1 ? 0x400u : 1u);
    take_bytes(input, data, 16);
}

/* Any admin command: its own fields where it is known, any fields otherwise. */
static inline struct vn_sqe shape_admin(struct input *input, uint8_t *ram) {
    static const uint64_t opcodes[] = {0x00, 0x01, 0x02, 0x04, 0x05, 0x06, 0x08, 0x09, 0x0a, 0x0c, 0x0d, 0x10, 0x11, 0x14, 0x15,
                                       0x18, 0x19, 0x1a, 0x1c, 0x1d, 0x1e, 0x20, 0x24, 0x7c, 0x7f, 0x80, 0x81, 0x82, 0x84, 0x86,
                                       0x0d, 0x15, 0x80, 0x84, 0x14, 0x02, 0x02, 0x06, 0x09, 0x0a};
    struct vn_sqe cmd = {.opcode = (uint8_t)take_of(input, opcodes, sizeof(opcodes) / sizeof(opcodes[0]), 1)};
    cmd.nsid = (uint32_t)take_of(input, shape_nsids, sizeof(shape_nsids) / sizeof(shape_nsids[0]), 4);
    cmd.cid = take8(input) % 32;
    shape_pointer(input, &cmd);
    if (take8(input) > 250)
        cmd.flags = take8(input);
    uint8_t *data = shape_data(&cmd, ram);
    switch (cmd.opcode) {
    case 0x00:
    case 0x01:
    case 0x04:
    case 0x05:
        shape_queue(input, &cmd);
        break;
    case 0x02:
        shape_log_page(input, &cmd);
        break;
    case 0x06:
        shape_identify(input, &cmd);
        break;
    case 0x08: /* Abort: a queue and a command */
        cmd.cdw10 = take8(input) % 3u | (take8(input) % 32u) << 16;
        break;
    case 0x09:
    case 0x0a:
        shape_feature(input, &cmd, data);
        break;
    case 0x0d:
        shape_ns_management(input, &cmd, data);
        break;
    case 0x10:
    case 0x11:
        shape_firmware(input, &cmd, data);
        break;
    case 0x14: /* Device Self-test: short, extended, vendor's, abort */
        cmd.cdw10 = (uint32_t[]){1, 2, 0xe, 0xf, 0}[take8(input) % 5];
        break;
    case 0x15:
        shape_ns_attachment(input, &cmd, data);
        break;
    case 0x19: /* directives */
    case 0x1a:
        cmd.cdw10 = shape_small(input) * 8;
        cmd.cdw11 = (take8(input) % 4u) | (take8(input) % 3u) << 8 | (uint32_t)take8(input) << 16;
        cmd.cdw12 = shape_small(input);
        break;
    case 0x80: /* Format NVM: LBAF, MSET, PI, PIL, SES */
        cmd.cdw10 = take8(input) & 7 ? (take8(input) % 8u) | (take8(input) & 0x1fu) << 4 | (take8(input) & 3u) << 9
                                     : (uint32_t)take(input, 4);
        break;
    case 0x81: /* security: protocol, its own, length */
    case 0x82:
        cmd.cdw10 = (take8(input) & 3u ? 0u : (uint32_t)take8(input)) << 24 | (uint32_t)take(input, 2) << 8;
        cmd.cdw11 = shape_small(input) * 16;
        break;
    case 0x84: /* Sanitize: action, AUSE, OWPASS, OIPBP, no deallocate */
        cmd.cdw10 = take8(input) & 7 ? 1 + take8(input) % 4u : (uint32_t)take(input, 2);
        cmd.cdw11 = (uint32_t)take(input, 4);
        break;
    case 0x86: /* Get LBA Status */
        cmd.cdw10 = shape_small(input);
        cmd.cdw12 = shape_small(input) * 4;
        cmd.cdw13 = shape_small(input) | (take8(input) & 1 ? 0x10u : 0x11u) << 24;
        break;
    default:
        cmd.cdw10 = (uint32_t)take(input, 4);
        cmd.cdw11 = shape_small(input);
        cmd.cdw12 = shape_small(input);
        cmd.cdw13 = shape_small(input);
        break;
    }
    return cmd;
}

/* Ranges of Dataset Management, Copy, or whatever else the page is read as. */
static inline void shape_ranges(struct input *input, uint8_t opcode, uint8_t *data) {
    uint32_t nr = 1 + take8(input) % 4;
    for (uint32_t i = 0; i < nr; i++) {
        uint64_t slba = shape_address(input);
        if (opcode == 0x09) { /* attributes, length, start */
            shape_put(data + 16 * i, take8(input), 4);
            shape_put(data + 16 * i + 4, take8(input), 4);
            shape_put(data + 16 * i + 8, slba, 8);
            continue;
        }
        memset(data + 40 * i, 0, 40); /* format 0 has 32 bytes a range, format 1 has 40 */
        shape_put(data + 32 * i + 8, slba, 8);
        shape_put(data + 32 * i + 16, take8(input) % 16, 2);
    }
}

/* Any I/O command. */
static inline struct vn_sqe shape_io(struct input *input, uint8_t *ram) {
    static const uint64_t opcodes[] = {0x00, 0x01, 0x02, 0x04, 0x05, 0x08, 0x09, 0x0c, 0x0d, 0x0e, 0x11, 0x15, 0x18, 0x19, 0x79, 0x7a,
                                       0x7d, 0x01, 0x02, 0x04, 0x05, 0x0c, 0x0d, 0x11, 0x15, 0x19};
    struct vn_sqe cmd = {.opcode = (uint8_t)take_of(input, opcodes, sizeof(opcodes) / sizeof(opcodes[0]), 1)};
    uint8_t shape = take8(input);
    cmd.nsid = (uint32_t)take_of(input, shape_nsids, sizeof(shape_nsids) / sizeof(shape_nsids[0]), 4);
    cmd.cid = take8(input) % 64;
    shape_pointer(input, &cmd);
    cmd.mptr = (SHAPE_DATA_PAGE + take8(input) % SHAPE_DATA_PAGES) * SHAPE_PAGE_BYTES + (shape & 1 ? take8(input) : 0u);
    uint8_t *data = shape_data(&cmd, ram);
    if (shape >= 0xc0)
        cmd.flags = shape & 2 ? take8(input) : 1 + (shape & 4) / 4; /* fused: the first or the second of a pair */
    switch (cmd.opcode) {
    case 0x09:
    case 0x19:
        shape_ranges(input, cmd.opcode, data);
        if (cmd.opcode == 0x09) {
            cmd.cdw10 = take8(input) % 4;
            cmd.cdw11 = take8(input) % 8;
            break;
        }
        shape_put((uint8_t *)&cmd.cdw10, shape_address(input), 8);
        cmd.cdw12 = take8(input) % 4u | (take8(input) % 3u) << 8 | (shape & 8 ? (uint32_t)take8(input) << 24 : 0);
        break;
    case 0x0d: /* reservations: register, acquire, release: action, ignore, type; then report */
    case 0x11:
    case 0x15:
        cmd.cdw10 = (take8(input) % 4u) | (shape & 8 ? 8u : 0u) | (take8(input) % 8u) << 8 | (uint32_t)(take8(input) & 3) << 30;
        shape_put(data, take8(input) % 4, 8);
        shape_put(data + 8, take8(input) % 4, 8);
        break;
    case 0x0e:
        cmd.cdw10 = shape_small(input) * 4;
        cmd.cdw11 = take8(input) & 1;
        break;
    default: /* a start and a number of blocks, with flags, tags */
        shape_put((uint8_t *)&cmd.cdw10, shape_address(input), 8);
        cmd.cdw12 = take8(input) % 20u | (shape & 16 ? (uint32_t)take8(input) << 24 : 0);
        cmd.cdw13 = shape & 32 ? (uint32_t)take(input, 4) : 0;
        cmd.cdw14 = shape & 32 ? shape_small(input) : 0;
        cmd.cdw15 = shape & 32 ? shape_small(input) : 0;
        break;
    }
    return cmd;
}

#endif
