#include <fmt/format.h>

#include <algorithm>

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

}  // namespace

void check(const AttentionParameters& a) {
    if (!(a.density > 0 && a.density <= 1)) {
        fail("density", fmt::format("a density of {} makes no sense: choose more than 0, at most 1",
                                    a.density));
    }
    const int block = a.block_size.value_or(64);
    if (block != 32 && block != 64 && block != 128) {
        fail("block_size",
             fmt::format("blocks of {} tokens can't be run: choose 32, 64 or 128", block));
    }
    if (!(a.top_p >= 0 && a.top_p <= 1)) {
        fail("top_p",
             fmt::format("a share of {} of the softmax makes no sense: choose 0 to 1", a.top_p));
    }
    if (a.top_p > 0 && a.mask != MaskMode::topk) {
        fail("top_p",
             "only the mask topk chooses blocks by their share of the softmax: leave this "
             "out or choose that mask");
    }
    if (a.block_order != BlockOrder::frames && a.mask != MaskMode::topk) {
        fail("block_order",
             "only the mask topk takes blocks in another order than the frames': "
             "leave this out or choose that mask");
    }
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
