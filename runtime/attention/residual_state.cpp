#include "attention/residual_state.hpp"

#include <fmt/format.h>
#include <shaders/residual_difference.hpp>
#include <shaders/residual_heads.hpp>
#include <shaders/residual_store.hpp>

#include "kernels/specialization.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::attention {
namespace {

using kernels::ceil_div;
using kernels::read_rows;
using kernels::round_up;
using kernels::Specialization;
using kernels::u32;
using program::Binding;
using program::read;
using program::read_write;
using program::unused;
using shaders::ShaderId;

constexpr int kRowsPerGroup = 8;  ///< of residual_difference.comp
constexpr int kCounters = 2;      ///< after the four words a head in `state`

Residual::Storage storage_of(ResidualStorage storage) {
    switch (storage) {
        case ResidualStorage::half:
            return Residual::Storage::half;
        case ResidualStorage::int8:
            return Residual::Storage::int8;
        case ResidualStorage::int4:
            return Residual::Storage::int4;
        default:
            return Residual::Storage::low_rank;
    }
}

int max_usable(SsarMode mode) {
    return mode == SsarMode::third ? 3 : mode == SsarMode::first ? 1 : 2;
}

template <typename Constant>
Specialization<Constant> constants(std::uint32_t lanes, const Residual& residual) {
    Specialization<Constant> all(lanes);
    all.set_from(Constant::residual, residual.constants());
    return all;
}

std::vector<Binding> joined(std::vector<Binding> first, const std::vector<Binding>& second) {
    first.insert(first.end(), second.begin(), second.end());
    return first;
}

Binding change_rows(const Matrix& m, int first, int count) {
    Binding binding = kernels::write_rows(m, first, count);
    binding.reads = true;
    return binding;
}

}  // namespace

ResidualState::ResidualState(Program& program, const ResidualOptions& options, int first_layer,
                             int layers, int branches)
    : program_(program),
      options_(options),
      first_layer_(std::min(first_layer, layers)),
      layers_(layers),
      branches_(branches) {
    if (history_slots(options.mode) == 0) {
        throw Error(ErrorCode::invalid_argument, "no residuals are kept without a correction");
    }
    if (options.storage == ResidualStorage::low_rank && options.mode != SsarMode::first &&
        options.mode != SsarMode::svd) {
        throw Error(ErrorCode::invalid_argument,
                    "low-rank residuals work with the first-order and the svd correction only");
    }
    for (int branch = 0; branch < branches_; ++branch) {
        control_.push_back(add(fmt::format("ssar.control.{}", branch), sizeof(Correction)));
        for (int layer = first_layer_; layer < layers_; ++layer) {
            residuals_.push_back(declare(layer, branch));
        }
    }
}

Tensor ResidualState::add(const std::string& name, std::uint64_t bytes) {
    const Tensor tensor = program_.add(name, bytes, program::Lifetime::persistent);
    bytes_ += program_.bytes_of(tensor);
    return tensor;
}

Residual ResidualState::declare(int layer, int branch) {
    const std::string name = fmt::format("ssar.{}.{}.", layer, branch);
    Residual r;
    r.storage = storage_of(options_.storage);
    r.tokens = options_.tokens;
    r.heads = options_.heads;
    r.head_dim = options_.head_dim;
    r.slots = r.storage == Residual::Storage::low_rank ? 1 : history_slots(options_.mode);
    r.control = control_[static_cast<std::size_t>(branch)];
    const int columns = r.heads * r.head_dim;
    const int rank4 = round_up(usable_rank(options_.rank, r.tokens, columns), 4) / 4;
    if (r.storage == Residual::Storage::low_rank) r.delta4 = rank4;
    if (options_.mode == SsarMode::svd) r.difference4 = rank4;
    {  // what is large may be streamed
        const Program::Grouping grouping(program_,
                                         {program::StreamGroup::Kind::residuals,
                                          fmt::format("block {}, branch {}", layer, branch)});
        if (const std::uint64_t row_bytes = r.row_bytes()) {
            r.rows = add(name + "rows", row_bytes * static_cast<std::uint64_t>(r.tokens));
        }
        if (const int factors = 4 * (r.delta4 + r.difference4)) {
            r.u = {{}, r.tokens, factors, factors, 0};
            r.v = {{}, columns, factors, factors, 0};
            r.u.tensor = add(name + "u", r.u.bytes());
            r.v.tensor = add(name + "v", r.v.bytes());
        }
    }
    r.state = add(name + "state", static_cast<std::uint64_t>(4 * r.heads + kCounters) * 4);
    return r;
}

const Residual& ResidualState::at(int layer, int branch) const {
    return residuals_[static_cast<std::size_t>(branch * (layers_ - first_layer_) + layer -
                                               first_layer_)];
}

void ResidualState::refresh(const std::string& name, int layer, int branch, const Matrix& full,
                            const Matrix& sparse, Tensor head_types) {
    const Residual& r = at(layer, branch);
    const std::uint32_t lanes = kernels::row_lanes(program_);
    const std::uint64_t widest = std::max(full.row_bytes(), r.row_bytes());
    const int chunk = std::min(65535, kernels::rows_per_dispatch(program_, widest, full.rows)) /
                      64 * 64;  // 0: all rows
    const int step = chunk && chunk < full.rows ? chunk : full.rows;
    const int groups = static_cast<int>(ceil_div(u32(full.rows), kRowsPerGroup));
    const Tensor partials =
        program_.add(name + ".partials", static_cast<std::uint64_t>(groups) * 16);
    const double elements = static_cast<double>(full.rows) * full.columns;

    const auto count_heads = [&](bool after) {
        using Constant = shaders::residual_heads::Constant;
        program_.dispatch(
            name + (after ? ".heads" : ".types"), ShaderId::residual_heads,
            Specialization<Constant>(
                lanes, {{Constant::after, after}, {Constant::has_types, head_types.valid()}}),
            {read_write(r.state), head_types.valid() ? read(head_types) : unused(r.state),
             after ? read(partials) : unused(r.state)},
            shaders::residual_heads::Push{.heads = u32(r.heads),
                                          .groups = u32(groups),
                                          .max_usable = u32(max_usable(options_.mode))},
            {1, 1, 1}, 8.0 * groups);
    };
    count_heads(false);
    for (int first = 0; first < full.rows; first += step) {
        const int rows = std::min(step, full.rows - first);
        using Constant = shaders::residual_difference::Constant;
        auto all = constants<Constant>(lanes, r);
        all.set(Constant::rows, kRowsPerGroup);
        program_.dispatch(
            name + ".difference", ShaderId::residual_difference, all,
            joined({read_rows(full, first, rows), change_rows(sparse, first, rows),
                    program::write(partials)},
                   r.bindings(first, rows)),
            shaders::residual_difference::Push{.rows = u32(rows),
                                               .stride = u32(full.stride),
                                               .first_row = u32(first),
                                               .first_group = u32(first / kRowsPerGroup)},
            {ceil_div(u32(rows), kRowsPerGroup), 1, 1}, 8.0 * elements);
    }
    LowRankOptions projection;
    projection.head_dim = r.head_dim;
    projection.seed = r.control;
    projection.seed_index = offsetof(Correction, reference) / 4;
    const int rank = usable_rank(options_.rank, r.tokens, full.columns);
    if (r.difference4) {
        projection.mask = r.state;  // heads without a residual before have no difference
        projection.mask_offset = r.heads;
        project_low_rank(program_, name + ".project", sparse, {r.u, r.v, 4 * r.delta4, rank},
                         projection);
    }
    for (int first = 0; first < full.rows; first += step) {
        const int rows = std::min(step, full.rows - first);
        program_.dispatch(
            name + ".store", ShaderId::residual_store,
            constants<shaders::residual_store::Constant>(lanes, r),
            joined({change_rows(sparse, first, rows)}, r.bindings(first, rows, true)),
            shaders::residual_store::Push{
                .rows = u32(rows), .stride = u32(full.stride), .first_row = u32(first)},
            {ceil_div(static_cast<std::uint64_t>(rows) * static_cast<std::uint64_t>(r.heads),
                      lanes),
             1, 1},
            8.0 * elements);
    }
    if (r.delta4) {
        projection.mask = {};
        project_low_rank(program_, name + ".project", sparse, {r.u, r.v, 0, rank}, projection);
    }
    count_heads(true);
}

void ResidualState::reset(program::Executor& executor) const {
    for (const Tensor control : control_) executor.clear(control);
    for (const Residual& r : residuals_) {
        executor.clear(r.state);
        if (r.v.tensor.valid()) {
            executor.clear(r.u.tensor);
            executor.clear(r.v.tensor);
        }
    }
}

void ResidualState::write(program::Executor& executor, int branch,
                          const Correction& correction) const {
    executor.write(control_[static_cast<std::size_t>(branch)],
                   std::as_bytes(std::span<const Correction>(&correction, 1)));
}

std::vector<ResidualReport> ResidualState::report(const program::Executor& executor) const {
    std::vector<ResidualReport> reports;
    for (int branch = 0; branch < branches_; ++branch) {
        for (int layer = first_layer_; layer < layers_; ++layer) {
            const std::size_t heads = static_cast<std::size_t>(options_.heads);
            const auto words =
                executor.read_values<std::uint32_t>(at(layer, branch).state, 4 * heads + kCounters);
            const auto row = [&](std::size_t i) {
                const auto begin = words.begin() + static_cast<std::ptrdiff_t>(i * heads);
                return std::vector<std::uint32_t>(begin,
                                                  begin + static_cast<std::ptrdiff_t>(heads));
            };
            reports.push_back(
                {layer, branch, row(2), row(3), words[4 * heads], words[4 * heads + 1]});
        }
    }
    return reports;
}

}  // namespace quantsparse::attention
