/* What the commands with metadata are made of: operations on the backend for the blocks in a slot. For meta_io.c, meta_fill.c and
 * meta_copy.c. Each goes on in a function of its own; what fails or is cancelled ends the command. Owner: the reactor.
 */
#ifndef VN_META_OPS_H
#define VN_META_OPS_H

#include "ctrl/io_cmd.h"
#include "ctrl/meta_io.h"
#include "ns/meta.h"

typedef void (*vn_meta_step)(struct vn_req *req);

static inline struct vn_meta *vn_meta_of(const struct vn_req *req) {
    return req->ns->ns->meta;
}

static inline const struct vn_pi *vn_meta_pi(const struct vn_req *req) {
    return &vn_meta_of(req)->layout.pi;
}

/* ILBRT, LBAT and LBATM of the command, for the block so many after its first. */
struct vn_pi_tags vn_meta_tags(const struct vn_req *req, uint64_t nr_before);

/* A slot with these blocks locked; false: there is none now, or somebody has them. */
bool vn_meta_take(struct vn_req *req, uint64_t slba, uint64_t nr, bool writes);
void vn_meta_give(struct vn_req *req);
/* The command is over, but its slot stays locked. Answers req. */
struct vn_req *vn_meta_lend(struct vn_req *req);
/* The same of a command that has ended. */
void vn_meta_unlock_slot(struct vn_req *req);
/* The command's slot gives up its blocks for others; false: somebody has some of them, and then it has none. */
bool vn_meta_move_lock(struct vn_req *req, uint64_t begin, uint64_t end, bool writes);
/* The end of every command that has a slot. */
void vn_meta_finish(struct vn_req *req, vn_status status);

/* The slot's blocks [slba, slba + nr), which lie in its buffers from block `first` on: data, then metadata as the host sees it. */
void vn_meta_load(struct vn_req *req, vn_meta_step then);
/* The same to the backend; slot->without_data: their metadata alone. */
void vn_meta_store(struct vn_req *req, vn_meta_step then);
/* An operation without a buffer on the data of so many bytes, which counts against the limits as any other. */
void vn_meta_clear(struct vn_req *req, enum vn_op op, uint64_t offset, uint64_t bytes, uint32_t flags, vn_meta_step next);
/* Zeros in place of the metadata of the slot's blocks, which fill whole units. */
void vn_meta_clear_span(struct vn_req *req, vn_meta_step next);
/* Durable is what was written before. */
void vn_meta_flush(struct vn_req *req, vn_meta_step next);

/* meta_fill.c, meta_copy.c: commands. They have no slot yet, and wait for one if need be. */
void vn_meta_zeroes(struct vn_req *req);
vn_status vn_meta_dsm(struct vn_req *req);
vn_status vn_meta_copy(struct vn_req *req);

#endif
