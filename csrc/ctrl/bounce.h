/* Memory of the controller's own, for commands that move data without the host's: Copy and Verify. A fixed number of
 * buffers, made with the controller; pages that were never touched cost nothing. Owner: the controller's reactor.
 */
#ifndef VN_CTRL_BOUNCE_H
#define VN_CTRL_BOUNCE_H

#include "ctrl/ctrl.h"

#define VN_NR_BOUNCES 4u
#define VN_BOUNCE_BYTES (VN_PAGE_SIZE << VN_MAX_MDTS)
#define VN_BOUNCE_LIST_BYTES 8192u /* before them: what the host sent along, as Copy's list of ranges */
#define VN_BOUNCES_BYTES (VN_NR_BOUNCES * (size_t)(VN_BOUNCE_BYTES + VN_BOUNCE_LIST_BYTES) + VN_BOUNCE_BYTES) /* and the bucket */

struct vn_bounce {
    struct vn_bounce *next; /* of the free ones */
    uint8_t *data;          /* VN_BOUNCE_BYTES, page-aligned */
    uint8_t list[VN_BOUNCE_LIST_BYTES - 2 * sizeof(void *)];
};
_Static_assert(sizeof(struct vn_bounce) == VN_BOUNCE_LIST_BYTES, "it lies before its data");

void vn_bounce_init(struct vn_ctrl *ctrl, uint8_t *memory); /* VN_BOUNCES_BYTES, page-aligned */
/* The command gets a buffer, which goes back when it ends. False: none is free. */
bool vn_bounce_take(struct vn_req *req);
/* Data of the command goes from or to the buffer, from an offset on: req->iov and req->length. */
void vn_bounce_point(struct vn_req *req, uint32_t at, uint32_t length);

#endif
