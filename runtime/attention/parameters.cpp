#include <fmt/format.h>

#include <algorithm>

#include "attention/block_rule.hpp"
#include "attention/low_rank.hpp"
#include "quantsparse/attention.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse {

namespace {

[[noreturn]] void fail(const char* field, const std::string& message) {
    throw Error(ErrorCode::invalid_argument, message, field);
}

void check_refreshes(const AttentionParameters& a) {
    if (a.refresh_interval && *a.refresh_interval < 1) {
        fail("refresh_interval",
             fmt::format("a refresh interval of {} steps makes no sense: choose 1 or more, for "
                         "example 5",
                         *a.refresh_interval));
    }
    if (a.refreshes && *a.refreshes < 1) {
        fail("refreshes", fmt::format("{} refreshes can't be placed: choose 1 or more, or leave it "
                                      "to the number of steps",
                                      *a.refreshes));
    }
    const std::vector<int>& steps = a.refresh_steps;
    if (!steps.empty() && (steps.front() != 0 || !std::is_sorted(steps.begin(), steps.end()) ||
                           std::adjacent_find(steps.begin(), steps.end()) != steps.end())) {
        fail("refresh_steps",
             "refreshes must begin with step 0 and rise from there, for example 0, 4: what sparse "
             "steps add comes from a refresh before them");
    }
    if ((a.refresh_interval || a.refreshes) && !steps.empty()) {
        fail("refresh_steps", "the refreshes are listed: leave out their interval and number");
    }
    if (a.refresh_interval && a.refreshes) {
        fail("refreshes", "an interval says where refreshes stand: leave out their number");
    }
    if (a.ssar == SsarMode::third && (a.refreshes || !steps.empty())) {
        fail("ssar", "third order needs evenly spaced references: use a refresh interval with it");
    }
}

void check_chosen_blocks(const AttentionParameters& a) {
    const bool lists = attention::lists_blocks(a);
    if (a.top_p && !(*a.top_p >= 0 && *a.top_p <= 1)) {
        fail("top_p",
             fmt::format("a share of {} of the softmax makes no sense: choose 0 to 1", *a.top_p));
    }
    if (attention::top_p_of(a) > 0 && !lists) {
        fail(
            "top_p",
            "only the masks topk and jenga choose blocks by their share of the softmax: leave this "
            "out or choose one of them");
    }
    if (attention::block_order_of(a) != BlockOrder::frames && !lists) {
        fail("block_order",
             "only the masks topk and jenga take blocks in another order than the frames': leave "
             "this out or choose one of them");
    }
    if (a.tail != BlockTail::none && !lists) {
        fail("tail",
             "only the masks topk and jenga know which blocks they leave out: leave this out or "
             "choose one of them");
    }
    if (a.tail != BlockTail::none && a.products != AttentionProducts::full) {
        fail("tail",
             "means of blocks are joined to products in full only: leave one of the two out");
    }
    if (a.sink == Sink::frame0 && attention::block_order_of(a) == BlockOrder::curve) {
        fail("sink", "along a curve the first frame is not held apart: leave this out");
    }
}

/// A file of masks says all that a density would be turned into.
void check_mask_file(const AttentionParameters& a) {
    if (a.mask_file.empty()) return;
    const AttentionParameters usual;
    const std::pair<const char*, bool> kChoices[] = {
        {"density", a.density.has_value()},    {"mask", a.mask != usual.mask},
        {"top_p", attention::top_p_of(a) > 0}, {"granularity", a.granularity != usual.granularity},
        {"sink", a.sink != usual.sink},
    };
    for (const auto& [field, chosen] : kChoices) {
        if (chosen) fail(field, "the mask file says which blocks are computed: leave this out");
    }
}

/// Sparse-linear attention is as the transformer was trained: nothing but its density is a choice.
void check_sla(const AttentionParameters& a) {
    const AttentionParameters usual;
    const std::pair<const char*, bool> kChoices[] = {
        {"block_size", a.block_size.has_value()},
        {"mask", a.mask != usual.mask},
        {"mask_file", !a.mask_file.empty()},
        {"top_p", a.top_p != usual.top_p},
        {"block_order", a.block_order != usual.block_order},
        {"tail", a.tail != usual.tail},
        {"granularity", a.granularity != usual.granularity},
        {"sink", a.sink != usual.sink},
        {"ssar", a.ssar.has_value()},
        {"refresh_steps", !a.refresh_steps.empty()},
        {"refresh_interval", a.refresh_interval.has_value()},
        {"refreshes", a.refreshes.has_value()},
        {"dense_steps", a.dense_steps.has_value()},
        {"dense_layers", a.dense_layers != usual.dense_layers},
    };
    for (const auto& [field, chosen] : kChoices) {
        if (chosen) {
            fail(field,
                 "sparse-linear attention runs as it was trained, of all this only a "
                 "density can be chosen: leave it out");
        }
    }
}

}  // namespace

void check(const AttentionParameters& a) {
    if (a.density && !(*a.density > 0 && *a.density <= 1)) {
        fail("density", fmt::format("a density of {} makes no sense: choose more than 0, at most 1",
                                    *a.density));
    }
    if (a.kind == AttentionKind::sla) check_sla(a);
    const int block = a.block_size.value_or(64);
    if (block != 32 && block != 64 && block != 128) {
        fail("block_size",
             fmt::format("blocks of {} tokens can't be run: choose 32, 64 or 128", block));
    }
    check_chosen_blocks(a);
    check_mask_file(a);
    if (a.ssar_rank < 1 || a.ssar_rank > attention::kMaxRank) {
        fail("ssar_rank",
             fmt::format("rank {} can't be run: choose 1 to {}", a.ssar_rank, attention::kMaxRank));
    }
    check_refreshes(a);
    if (a.dense_steps && *a.dense_steps < 0) {
        fail("dense_steps",
             fmt::format("{} dense steps make no sense: choose 0 or more", *a.dense_steps));
    }
    if (a.dense_layers < 0) {
        fail("dense_layers",
             fmt::format("{} dense layers make no sense: choose 0 or more", a.dense_layers));
    }
    const bool higher = a.ssar == SsarMode::second || a.ssar == SsarMode::third;
    if (a.residual == ResidualStorage::low_rank && higher) {
        fail("residual",
             "low-rank residuals hold no history: use the correction first or svd with them");
    }
    if (a.ssar == SsarMode::third && a.ssar_span == SsarSpan::adjacent) {
        fail("ssar_span", "third order needs evenly spaced references: use the span refs with it");
    }
}

}  // namespace quantsparse
