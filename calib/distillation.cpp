#include "calib/distillation.hpp"

#include <algorithm>

#include "calib/attention.hpp"

namespace quantsparse::calib {
namespace {

constexpr std::int64_t kPooledTokens = 128;
constexpr double kSalientShare = 0.015;
constexpr std::int64_t kFewestSalient = 4;
constexpr std::int64_t kRows = 512;

}  // namespace

at::Tensor pool_tokens(const at::Tensor& x, std::int64_t stride) {
    if (stride <= 1) {
        return x;
    }
    const std::int64_t whole = x.size(0) / stride;
    std::vector<at::Tensor> parts;
    if (whole > 0) {
        parts.push_back(
            x.narrow(0, 0, whole * stride).reshape({whole, stride, x.size(1), x.size(2)}).mean(1));
    }
    if (const auto rest = x.size(0) - whole * stride; rest > 0) {
        parts.push_back(x.narrow(0, whole * stride, rest).mean(0, true));
    }
    return at::cat(parts, 0);
}

at::Tensor pooled_map(const at::Tensor& q, const at::Tensor& k, std::int64_t stride) {
    return attention_rows(pool_tokens(q, stride), pool_tokens(k, stride));
}

at::Tensor received_attention(const at::Tensor& q, const at::Tensor& k) {
    auto received = at::zeros({k.size(0)}, at::kDouble);
    for (std::int64_t start = 0; start < q.size(0); start += kRows) {
        const auto count = std::min(kRows, q.size(0) - start);
        received += attention_rows(q.narrow(0, start, count), k)
                        .sum(at::IntArrayRef({0, 1}), false, at::kDouble);
    }
    return received;
}

at::Tensor salient_tokens(const at::Tensor& received, std::int64_t count) {
    const auto kept = std::clamp<std::int64_t>(count, 1, received.size(0));
    return std::get<0>(std::get<1>(received.topk(kept)).sort());
}

at::Tensor map_error(const at::Tensor& map, const at::Tensor& target) {
    return (map - target).square().sum(-1).mean();
}

std::int64_t default_stride(std::int64_t tokens) {
    return std::max<std::int64_t>(1, (tokens + kPooledTokens / 2) / kPooledTokens);
}

std::int64_t default_salient(std::int64_t tokens) {
    return std::min(
        tokens, std::max(kFewestSalient,
                         static_cast<std::int64_t>(kSalientShare * static_cast<double>(tokens))));
}

}  // namespace quantsparse::calib
