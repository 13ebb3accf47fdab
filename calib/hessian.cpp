#include "calib/hessian.hpp"

#include <algorithm>

#include "calib/linear_algebra.hpp"
#include "calib/parallel.hpp"
#include "calib/progress.hpp"

namespace quantsparse::calib {
namespace {

constexpr std::int64_t kSumTile = 256;  // of the sums; a thread adds to a whole tile

/// The rows that entered each group in one run of the block.
using GroupRows = std::map<std::string, std::vector<at::Tensor>, std::less<>>;

/// Rows with the prompt and without, combined as guidance combines what becomes of them.
GroupRows guided_rows(const GroupRows& with_prompt, const GroupRows& without, double guidance,
                      const format::NetworkBlock& block) {
    GroupRows result;
    for (const auto& [group, prompted] : with_prompt) {
        const auto& plain = without.at(group);
        if (group_of(block, group).once_per_prompt || plain.size() != prompted.size()) {
            continue;
        }
        for (std::size_t i = 0; i < plain.size(); ++i) {
            if (plain[i].sizes() == prompted[i].sizes()) {
                result[group].push_back(at::lerp(plain[i], prompted[i], guidance));
            }
        }
    }
    return result;
}

/// A tile of the lower triangle of one group's sum.
struct Tile {
    std::string group;
    std::int64_t row = 0, column = 0;

    at::Tensor rows_of(const at::Tensor& matrix, int dimension) const {
        return matrix.narrow(dimension, row, std::min(kSumTile, matrix.size(dimension) - row));
    }
    at::Tensor columns_of(const at::Tensor& matrix) const {
        return matrix.narrow(1, column, std::min(kSumTile, matrix.size(1) - column));
    }
};

/// Puts the combined rows of each pair behind it, so that they are always added in that place.
void append_guided(double guidance, const format::NetworkBlock& block,
                   std::vector<GroupRows>& runs) {
    std::vector<GroupRows> all;
    for (std::size_t i = 0; i < runs.size(); ++i) {
        all.push_back(std::move(runs[i]));
        if (i % 2 == 1) {
            all.push_back(guided_rows(all[all.size() - 2], all.back(), guidance, block));
        }
    }
    runs = std::move(all);
}

class Sums {
  public:
    explicit Sums(const format::NetworkBlock& block) {
        for (const auto& group : block.groups) {
            hessians_[group.name] = at::zeros({group.width, group.width}, at::kFloat);
            for (std::int64_t row = 0; row < group.width; row += kSumTile) {
                for (std::int64_t column = 0; column <= row; column += kSumTile) {
                    tiles_.push_back({group.name, row, column});
                }
            }
        }
    }

    /// Adds the runs in their order, whichever thread takes a tile.
    void add(const std::vector<GroupRows>& runs, int threads) {
        in_parallel(tiles_.size(), threads, [&](std::size_t index) {
            const at::NoGradGuard no_gradients;
            const auto& tile = tiles_[index];
            const auto sum = tile.columns_of(tile.rows_of(hessians_.at(tile.group), 0));
            for (const auto& run : runs) {
                const auto found = run.find(tile.group);
                if (found == run.end()) {
                    continue;
                }
                for (const auto& rows : found->second) {
                    sum.addmm_(tile.rows_of(rows, 1).t(), tile.columns_of(rows));
                }
            }
        });
    }

    /// The upper triangles are the lower ones.
    BlockHessians finish(int threads) && {
        in_parallel(tiles_.size(), threads, [&](std::size_t index) {
            const at::NoGradGuard no_gradients;
            const auto& tile = tiles_[index];
            if (tile.row != tile.column) {
                const auto& whole = hessians_.at(tile.group);
                const auto below = tile.columns_of(tile.rows_of(whole, 0));
                whole.narrow(0, tile.column, below.size(1))
                    .narrow(1, tile.row, below.size(0))
                    .copy_(below.t());
            }
        });
        return std::move(hessians_);
    }

  private:
    BlockHessians hessians_;
    std::vector<Tile> tiles_;
};

}  // namespace

BlockObservation observe_block(const Transformer& transformer, const BlockWeights& weights,
                               const SampleSet& samples, BlockInputs inputs, double guidance,
                               int threads) {
    const at::NoGradGuard no_gradients;
    const OneThreadPerOperation exact;
    BlockObservation result;
    result.outputs.resize(samples.training);
    Sums sums(*weights.described);
    const auto at_once = static_cast<std::size_t>(core_count(threads) + 1) / 2 * 2;
    for (std::size_t first = 0; first < samples.training; first += at_once) {
        std::vector<GroupRows> runs(std::min(at_once, samples.training - first));
        in_parallel(runs.size(), threads, [&](std::size_t index) {
            const at::NoGradGuard no_gradients_here;  // belongs to a thread
            check_cancelled();
            const auto sample = first + index;
            auto state = samples.states[sample];
            if (inputs == BlockInputs::quantized) {
                state.x = samples.quantized[sample];
            }
            BlockMethods methods;
            methods.project = [&](std::string_view group, const at::Tensor& rows) {
                runs[index][std::string(group)].push_back(rows.contiguous());
                return project_exactly(weights, group, rows);
            };
            result.outputs[sample] = transformer.run_block(weights, state, methods);
        });
        check_cancelled();
        if (guidance != 1) {
            append_guided(guidance, *weights.described, runs);
        }
        sums.add(runs, threads);
    }
    result.hessians = std::move(sums).finish(threads);
    return result;
}

}  // namespace quantsparse::calib
