/* What a target says of itself and of the namespace: checked, and put into facts. Called by the steps of an association
 * and when the namespace has changed.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "core/util.h"
#include "nvmetcp/host.h"

#define IDENTIFIER_MAX (VN_ASSOC_PAGE - 4u)
#define RANGE_BLOCKS_MAX UINT32_MAX
#define NLB_MAX 65536u
#define ANA_GROUPS_MAX ((VN_ASSOC_PAGE - (uint32_t)sizeof(struct vn_ana_log)) / (uint32_t)sizeof(struct vn_ana_group))

/* ASCII without the spaces that pad it; what is not printable is a question mark. */
static void take_ascii(char *out, const char *field, size_t bytes) {
    while (bytes && (field[bytes - 1] == ' ' || !field[bytes - 1]))
        bytes--;
    for (size_t i = 0; i < bytes; i++)
        out[i] = (char)(field[i] >= ' ' && field[i] <= '~' ? field[i] : '?');
    out[bytes] = '\0';
}

/* 2^power pages, at most most. */
static uint32_t of_pages(const struct vn_assoc_facts *facts, uint8_t power, uint32_t most) {
    return power < 20 ? (uint32_t)vn_min_u64((uint64_t)facts->page_min << power, most) : most;
}

bool vn_ident_ctrl(struct vn_assoc *assoc, const struct vn_id_ctrl *id) {
    struct vn_assoc_facts *facts = &assoc->facts;
    if (id->cntrltype == VN_CNTRLTYPE_DISCOVERY) {
        vn_assoc_fail(assoc, ENODEV, "%s at %s is a discovery service: it has no namespaces", assoc->config->subnqn,
                      assoc->name);
        return false;
    }
    take_ascii(facts->serial, id->sn, sizeof(id->sn));
    take_ascii(facts->model, id->mn, sizeof(id->mn));
    facts->transfer_max = id->mdts ? of_pages(facts, id->mdts, VN_ASSOC_TRANSFER_MAX) : VN_ASSOC_TRANSFER_MAX;
    /* IOCCSZ in 16 bytes, with the SQE; data behind it begins at ICDOFF, which is 0 for TCP */
    facts->capsule_max = id->ioccsz > 4 && !id->icdoff
                             ? (uint32_t)vn_min_u64((uint64_t)(id->ioccsz - 4) * 16, VN_ASSOC_TRANSFER_MAX)
                             : 0;
    facts->compare = id->oncs & VN_ONCS_COMPARE;
    facts->deallocate = id->oncs & VN_ONCS_DSM;
    facts->write_zeroes = id->oncs & VN_ONCS_WRITE_ZEROES;
    facts->volatile_cache = id->vwc & 1;
    facts->has_ana = id->cmic & VN_CMIC_ANA;
    facts->oaes = id->oaes;
    facts->ciu = id->ciu;
    facts->cirn = id->cirn;
    return true;
}

bool vn_ident_ns(struct vn_assoc *assoc, const struct vn_id_ns *id) {
    struct vn_assoc_facts *facts = &assoc->facts;
    uint32_t nsid = assoc->config->nsid;
    if (!id->nsze) {
        vn_assoc_fail(assoc, ENOENT, "%s at %s has no namespace %u for the host %s", assoc->config->subnqn, assoc->name,
                      nsid, assoc->config->hostnqn);
        return false;
    }
    const struct vn_lbaf *format = &id->lbaf[(id->flbas & 0xf) | (id->flbas >> 1 & 0x30)];
    if (format->ms || (format->lbads != 9 && format->lbads != 12)) {
        vn_assoc_fail(assoc, EMEDIUMTYPE, "namespace %u of %s has blocks of 2^%u bytes with %u of metadata: only 512 "
                      "and 4096 without can be used", nsid, assoc->config->subnqn, format->lbads, format->ms);
        return false;
    }
    facts->block_size = 1u << format->lbads;
    if (id->nsze > (uint64_t)INT64_MAX >> format->lbads) {
        vn_assoc_fail(assoc, EFBIG, "namespace %u of %s has an impossible size: %llu blocks", nsid,
                      assoc->config->subnqn, (unsigned long long)id->nsze);
        return false;
    }
    static const uint8_t none[16];
    facts->nr_blocks = id->nsze;
    facts->reads_zeros = (id->dlfeat & 0x7) == 1;
    facts->zeroes_deallocate = id->dlfeat & 0x8;
    facts->read_only = id->nsattr & 1;
    facts->ana_group = id->anagrpid;
    facts->has_nguid = memcmp(id->nguid, none, sizeof(id->nguid)) != 0;
    facts->has_eui64 = memcmp(id->eui64, none, sizeof(id->eui64)) != 0;
    memcpy(facts->nguid, id->nguid, sizeof(facts->nguid));
    memcpy(facts->eui64, id->eui64, sizeof(facts->eui64));
    facts->has_uuid = false; /* the descriptors say it */
    facts->zeroes_max = (uint32_t)vn_min_u64(facts->transfer_max / facts->block_size, NLB_MAX);
    facts->deallocate_max = RANGE_BLOCKS_MAX;
    return true;
}

/* Namespace Identification Descriptors: type, length, two reserved bytes, the identifier. */
void vn_ident_desc(struct vn_assoc *assoc, const uint8_t *page) {
    struct vn_assoc_facts *facts = &assoc->facts;
    for (uint32_t at = 0; at <= IDENTIFIER_MAX && page[at + 1];) {
        uint32_t bytes = page[at + 1];
        if (bytes > IDENTIFIER_MAX - at)
            return;
        if (page[at] == VN_NIDT_UUID && bytes == 16) {
            memcpy(facts->uuid, page + at + 4, 16);
            facts->has_uuid = true;
        }
        at += 4 + bytes;
    }
}

/* Of zeros in particular: WZSL says how much; without it MDTS is a bound that every controller keeps. */
void vn_ident_nvm(struct vn_assoc *assoc, const struct vn_id_ctrl_nvm *id) {
    struct vn_assoc_facts *facts = &assoc->facts;
    if (id->wzsl)
        facts->zeroes_max =
            (uint32_t)vn_min_u64(of_pages(facts, id->wzsl, UINT32_MAX) / facts->block_size, NLB_MAX);
    if (id->dmrsl)
        facts->deallocate_max = id->dmrsl;
}

/* The state of the namespace's group; OPTIMIZED when the log (asked for without NSIDs) does not have the group. */
enum vn_ana_state vn_ident_ana(const struct vn_assoc *assoc, const uint8_t *page) {
    struct vn_ana_log log;
    memcpy(&log, page, sizeof(log));
    uint32_t at = sizeof(log);
    for (uint32_t i = 0; i < log.nr_groups && i < ANA_GROUPS_MAX; i++) {
        struct vn_ana_group group;
        if (at > VN_ASSOC_PAGE - sizeof(group))
            break;
        memcpy(&group, page + at, sizeof(group));
        if (group.anagrpid == assoc->facts.ana_group)
            return group.state & 0xf;
        if (group.nr_nsids > VN_ASSOC_PAGE / 4) /* it was to be 0 */
            break;
        at += (uint32_t)sizeof(group) + group.nr_nsids * 4;
    }
    return VN_ANA_OPTIMIZED;
}
