/* What is of the vendor's own, by UUID (Base 8.25): the list of Identify, and the index into it that commands have. Owner: the
 * controller's reactor.
 */
#ifndef VN_CTRL_VENDOR_H
#define VN_CTRL_VENDOR_H

#include "ctrl/drive.h"

/* This project's own, the first of the list. It stands for what is in the data areas of both telemetry logs: log_telemetry.c. */
#define VN_VENDOR_UUID                                                                                                         \
    {0x5b, 0x0b, 0x2a, 0x8e, 0x6d, 0x1f, 0x4c, 0x39, 0x9a, 0x4e, 0x3f, 0x1c, 0x7d, 0x2e, 0x8a, 0x61}

/* list: zeros. A persona that says what its log pages are of has the second place. */
void vn_vendor_list(const struct vn_ctrl *ctrl, struct vn_uuid_entry list[VN_UUID_LIST_ENTRIES]);
/* Commands with a UUID Index: Identify, Get Log Page, Get and Set Features. */
bool vn_vendor_selects(uint8_t opcode);
/* 0, or why not: an index that is of nothing, or of nothing that this command asks for. */
vn_status vn_vendor_check(struct vn_req *req);

#endif
