#include "format/adapter_merge.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <future>
#include <map>
#include <thread>

#include "format/text.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::format {
namespace {

// What an inner loop reads of `down` stays in the second-level cache: 256 columns of 64 ranks.
constexpr std::int64_t kColumns = 256;
constexpr std::int64_t kBlock = 1 << 18;  ///< elements that a thread takes at a time
// Below this many multiplications a thread costs more than it saves.
constexpr double kWorthThreads = 5e7;
constexpr unsigned kMostThreads = 16;

std::size_t index(std::int64_t value) {
    return static_cast<std::size_t>(value);
}

/// sum[c] += up[0] * down[0][c] + … for `Ranks` rows of `down`, `stride` apart. Nothing overlaps,
/// which the compiler must know to use vectors.
template <int Ranks>
void add_ranks(const float* up, const float* __restrict down, std::int64_t stride,
               std::int64_t count, float* __restrict sum) {
    float factors[Ranks];
    std::copy_n(up, Ranks, factors);
    for (std::int64_t c = 0; c < count; ++c) {
        float s = sum[c];
        for (int r = 0; r < Ranks; ++r) {
            s += factors[r] * down[r * stride + c];
        }
        sum[c] = s;
    }
}

/// The same for `rank` rows.
void add_row(const float* up, const float* down, std::int64_t stride, std::int64_t rank,
             std::int64_t count, float* sum) {
    std::int64_t r = 0;
    for (; r + 8 <= rank; r += 8) {
        add_ranks<8>(up + r, down + r * stride, stride, count, sum);
    }
    for (; r < rank; ++r) {
        add_ranks<1>(up + r, down + r * stride, stride, count, sum);
    }
}

struct ScaledLowRank {
    LowRankTerm term;
    float factor = 1;
};
struct ScaledDifference {
    TensorView values;
    float factor = 1;
};
struct ScaledChange {
    std::vector<ScaledLowRank> low_rank;
    std::vector<ScaledDifference> differences;

    std::int64_t rank() const {
        std::int64_t sum = 0;
        for (const auto& part : low_rank) {
            sum += part.term.rank();
        }
        return sum;
    }
};

class MergedTensor final : public ComputedTensor {
  public:
    MergedTensor(TensorView base, ScaledChange change)
        : base_(std::move(base)),
          change_(std::move(change)),
          width_(base_.shape.empty() ? 1 : base_.element_count() / base_.shape.front()) {}

    void read(std::int64_t first, std::span<std::byte> out) const override {
        std::vector<std::vector<float>> downs;
        for (const auto& part : change_.low_rank) {
            downs.push_back(to_float(part.term.down));
        }
        const auto count = static_cast<std::int64_t>(out.size() / sizeof(float));
        // Whole rows, so that no row is begun twice; what a caller begins elsewhere stays so.
        const std::int64_t step = std::max(kBlock / width_, std::int64_t{1}) * width_;
        const std::int64_t blocks = (count + step - 1) / step;
        const auto compute = [&](std::int64_t block) {
            const std::int64_t begin = block * step, length = std::min(step, count - begin);
            const auto values = sum(first + begin, length, downs);
            std::memcpy(out.data() + index(begin) * sizeof(float), values.data(),
                        values.size() * sizeof(float));
        };
        const double work = static_cast<double>(count) * static_cast<double>(change_.rank());
        const unsigned threads =
            work < kWorthThreads
                ? 1
                : std::clamp(std::thread::hardware_concurrency(), 1u, kMostThreads);
        std::atomic<std::int64_t> next = 0;
        const auto work_off = [&] {
            for (std::int64_t block = next++; block < blocks; block = next++) {
                compute(block);
            }
        };
        std::vector<std::future<void>> others;
        for (unsigned i = 1; i < threads; ++i) {
            others.push_back(std::async(std::launch::async, work_off));
        }
        work_off();
        for (auto& other : others) {
            other.get();
        }
    }

  private:
    /// Elements from `first` on.
    std::vector<float> sum(std::int64_t first, std::int64_t count,
                           const std::vector<std::vector<float>>& downs) const {
        std::vector<float> values(index(count));
        to_float(base_.slice(first, count), values);
        for (const auto& part : change_.differences) {
            const auto added = to_float(part.values.slice(first, count));
            for (std::size_t i = 0; i < values.size(); ++i) {
                values[i] += part.factor * added[i];
            }
        }
        for (std::size_t i = 0; i < downs.size(); ++i) {
            add_low_rank(change_.low_rank[i], downs[i], first, values);
        }
        return values;
    }

    void add_low_rank(const ScaledLowRank& part, const std::vector<float>& down, std::int64_t first,
                      std::vector<float>& values) const {
        const std::int64_t rank = part.term.rank(), end = first + std::ssize(values);
        const std::int64_t first_row = first / width_, last_row = (end - 1) / width_;
        const auto up =
            to_float(part.term.up.slice(first_row * rank, (last_row - first_row + 1) * rank));
        std::vector<float> product(kColumns);
        for (std::int64_t column = 0; column < width_; column += kColumns) {
            for (std::int64_t row = first_row; row <= last_row; ++row) {
                // Of the row's columns those that are asked for.
                const std::int64_t begin = std::max(row * width_ + column, first);
                const std::int64_t stop =
                    std::min({row * width_ + std::min(column + kColumns, width_), end});
                if (begin >= stop) {
                    continue;
                }
                std::fill(product.begin(), product.end(), 0.0f);
                add_row(up.data() + (row - first_row) * rank, down.data() + begin - row * width_,
                        width_, rank, stop - begin, product.data());
                float* out = values.data() + (begin - first);
                for (std::int64_t i = 0; i < stop - begin; ++i) {
                    out[i] += part.factor * product[index(i)];
                }
            }
        }
    }

    const TensorView base_;
    const ScaledChange change_;
    const std::int64_t width_;  ///< elements of a row
};

/// The low-rank matrices of all adapters of a linear: `down` one below the other, or `up` side by
/// side, scaled.
class StackedTensor final : public ComputedTensor {
  public:
    StackedTensor(ScaledChange change, bool down) : change_(std::move(change)), down_(down) {}

    void read(std::int64_t first, std::span<std::byte> out) const override {
        const auto values = down_ ? stacked_down() : stacked_up();
        std::memcpy(out.data(), values.data() + first, out.size());
    }

  private:
    std::vector<float> stacked_down() const {
        std::vector<float> values;
        for (const auto& part : change_.low_rank) {
            const auto down = to_float(part.term.down);
            values.insert(values.end(), down.begin(), down.end());
        }
        return values;
    }
    std::vector<float> stacked_up() const {
        const std::int64_t width = change_.rank();
        const std::int64_t rows = change_.low_rank.front().term.up.shape.front();
        std::vector<float> values(index(rows * width));
        std::int64_t column = 0;
        for (const auto& part : change_.low_rank) {
            const auto up = to_float(part.term.up);
            const std::int64_t rank = part.term.rank();
            for (std::int64_t i = 0; i < rows * rank; ++i) {
                values[index(i / rank * width + column + i % rank)] = part.factor * up[index(i)];
            }
            column += rank;
        }
        return values;
    }

    const ScaledChange change_;
    const bool down_;
};

TensorView computed_view(const std::string& name, std::vector<std::int64_t> shape,
                         std::shared_ptr<const ComputedTensor> values) {
    return {name, DType::f32, std::move(shape), {}, std::move(values)};
}

[[noreturn]] void refuse_on_quantised(const std::string& tensor, const TensorView& values,
                                      const Checkpoint& checkpoint) {
    throw Error(ErrorCode::unsupported,
                fmt::format("the adapter's '{}' changes '{}', which '{}' holds quantised: put the "
                            "adapter in when the model is calibrated",
                            printable(values.name), tensor, checkpoint.path().string()),
                "adapters");
}

/// Puts the sum in the place of the tensor, or the matrices beside it.
void put_change(Checkpoint& checkpoint, const std::string& tensor, ScaledChange change) {
    if (const auto* base = checkpoint.find(tensor); base != nullptr && is_floating(base->dtype)) {
        const TensorView values = *base;
        checkpoint.put(computed_view(tensor, values.shape,
                                     std::make_shared<MergedTensor>(values, std::move(change))));
        return;
    }
    if (!change.differences.empty() || change.low_rank.empty()) {
        refuse_on_quantised(tensor, change.differences.front().values, checkpoint);
    }
    const std::string linear = tensor.substr(0, tensor.rfind('.'));
    checkpoint.at(linear + ".codes");
    if (const auto* down = checkpoint.find(linear + kLoraDown)) {  // the file's own stays
        change.low_rank.push_back({{*down, checkpoint.at(linear + kLoraUp), 1.0}, 1.0f});
    }
    const auto& first = change.low_rank.front().term;
    const std::int64_t rank = change.rank();
    const std::int64_t in = first.down.element_count() / first.rank();
    checkpoint.put(computed_view(linear + kLoraDown, {rank, in},
                                 std::make_shared<StackedTensor>(change, true)));
    checkpoint.put(computed_view(linear + kLoraUp, {first.up.shape.front(), rank},
                                 std::make_shared<StackedTensor>(change, false)));
}

}  // namespace

Component apply_adapters(const Component& network, const std::vector<AppliedAdapter>& adapters,
                         ExpertPlace expert, const std::function<void(const std::string&)>& warn) {
    if (!network.checkpoint || adapters.empty()) {
        return network;
    }
    auto checkpoint = std::make_shared<Checkpoint>(*network.checkpoint);
    std::map<std::string, ScaledChange> all;
    for (const auto& adapter : adapters) {
        const auto changes = adapter.file->changes_for(network.network, expert);
        for (const auto& [tensor, change] : changes.tensors) {
            auto& sum = all[tensor];
            for (const auto& term : change.low_rank) {
                sum.low_rank.push_back({term, static_cast<float>(adapter.strength * term.factor)});
            }
            for (const auto& term : change.differences) {
                sum.differences.push_back(
                    {term.values, static_cast<float>(adapter.strength * term.factor)});
            }
        }
        checkpoint->keep(adapter.file->source());
        if (!changes.unused.empty() && warn) {
            warn(fmt::format(
                "'{}': {} of its tensors {} left out, since the model has no place "
                "for {}: {}",
                adapter.file->path().string(), changes.unused.size(),
                changes.unused.size() == 1 ? "is" : "are",
                changes.unused.size() == 1 ? "it" : "them", list_names(changes.unused, 3)));
        }
    }
    for (auto& [tensor, change] : all) {
        put_change(*checkpoint, tensor, std::move(change));
    }
    return {network.network, std::move(checkpoint)};
}

}  // namespace quantsparse::format
