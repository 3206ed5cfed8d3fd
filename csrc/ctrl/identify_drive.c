/* What Identify says of a controller because it belongs to a drive (Base 5.17.2.1), and of the sizes that its namespaces had better
 * have. Called by identify.c.
 */
#include "ctrl/drive.h"
#include "ctrl/persona.h"
#include "ns/format.h"

#define FRMW_SLOT1_READ_ONLY 0x1u
#define FRMW_SLOTS (VN_FIRMWARE_SLOTS << 1)
#define FRMW_WITHOUT_RESET (1u << 4)
#define FWUG_4K 1u
#define DSTO_ONE_AT_A_TIME 0x1u
#define NWPC_ALL 0x7u /* protected; until a power cycle; for ever */
#define PELS_64K 1u

void vn_drive_identify(const struct vn_ctrl *ctrl, struct vn_id_ctrl *id) {
    id->ctratt |= VN_CTRATT_ENDURANCE_GROUPS | VN_CTRATT_GRANULARITY | VN_CTRATT_UUID_LIST;
    id->endgidmax = 1;
    id->frmw = FRMW_SLOT1_READ_ONLY | FRMW_SLOTS | FRMW_WITHOUT_RESET;
    id->fwug = FWUG_4K;
    id->lpa |= VN_LPA_TELEMETRY | VN_LPA_EVENTS | VN_LPA_SUPPORTED_PAGES;
    id->pels = PELS_64K;
    id->edstt = vn_self_test_minutes(ctrl->drive);
    id->dsto = DSTO_ONE_AT_A_TIME;
    id->sanicap = vn_sanitize_capabilities(ctrl->drive);
    id->nwpc = NWPC_ALL;
    id->oncs |= VN_ONCS_SAVE_SELECT | VN_ONCS_TIMESTAMP;
}

/* Whole blocks; with metadata as many as leave nothing of VN_FORMAT_ALIGN unused, neither of the data nor of the metadata. */
static uint64_t granularity_of(const struct vn_lba_format *format) {
    uint64_t blocks = format->ms ? VN_FORMAT_ALIGN / format->ms : 1;
    return blocks << format->shift;
}

void vn_drive_granularity(const struct vn_ctrl *ctrl, struct vn_id_granularity *id) {
    id->attributes = VN_GRANULARITY_OF_FORMATS;
    id->nr = VN_NR_LBA_FORMATS - 1;
    for (uint32_t i = 0; i < VN_NR_LBA_FORMATS; i++) {
        if (vn_persona_has_format(ctrl, i))
            id->of[i].size = id->of[i].capacity = granularity_of(&vn_lba_formats[i]);
    }
}
