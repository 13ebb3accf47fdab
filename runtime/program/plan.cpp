#include "program/plan.hpp"

#include <fmt/format.h>
#include <algorithm>
#include <numeric>

#include "quantsparse/error.hpp"

namespace quantsparse::program {
namespace {

constexpr std::uint64_t kPreferredBlockBytes = 1ull << 30;

struct Use {
    std::uint32_t first = 0xFFFFFFFF;  ///< index of the first operation
    std::uint32_t last = 0;
    bool used() const { return first != 0xFFFFFFFF; }
};

std::uint64_t align_up(std::uint64_t value, std::uint64_t alignment) {
    return (value + alignment - 1) / alignment * alignment;
}

/// Appends tensors one after another, opening a block when the last one is full.
class Stacker {
  public:
    Stacker(Plan& plan, std::uint64_t alignment, std::uint64_t block_limit)
        : plan_(plan), alignment_(alignment), block_limit_(block_limit) {}

    void place(std::uint32_t tensor, std::uint64_t bytes) {
        bytes = align_up(bytes, alignment_);
        if (!open_ || plan_.block_bytes.back() + bytes > block_limit_) {
            plan_.block_bytes.push_back(0);
            open_ = true;
        }
        plan_.places[tensor] = {static_cast<std::uint32_t>(plan_.block_bytes.size() - 1),
                                plan_.block_bytes.back()};
        plan_.block_bytes.back() += bytes;
        total += bytes;
    }

    std::uint64_t total = 0;

  private:
    Plan& plan_;
    std::uint64_t alignment_;
    std::uint64_t block_limit_;
    bool open_ = false;
};

}  // namespace

Plan make_plan(const Program& program) {
    const auto& tensors = program.tensors();
    const Limits& limits = program.limits();
    Plan plan;
    plan.places.resize(tensors.size());

    std::vector<Use> uses(tensors.size());
    const auto& operations = program.operations();
    for (std::uint32_t i = 0; i < operations.size(); ++i) {
        for (const Binding& binding : operations[i].bindings) {
            if (!binding.reads && !binding.writes) continue;
            Use& use = uses[binding.tensor.id];
            use.first = std::min(use.first, i);
            use.last = std::max(use.last, i);
            plan.largest_binding_bytes = std::max(plan.largest_binding_bytes, binding.bytes);
        }
    }
    // Blocks of a GiB at most where tensors allow: large allocations fail first when memory is
    // fragmented.
    std::uint64_t block_limit = std::min(limits.max_block_bytes, kPreferredBlockBytes);
    for (const auto& tensor : tensors) {
        block_limit = std::max(block_limit, align_up(tensor.bytes, limits.alignment));
        if (align_up(tensor.bytes, limits.alignment) > limits.max_block_bytes) {
            throw Error(
                ErrorCode::out_of_memory,
                fmt::format("{} needs {:.0f} MiB in one piece, the device allocates {:.0f} at "
                            "most: lower the size or the frames",
                            tensor.name, static_cast<double>(tensor.bytes) / (1 << 20),
                            static_cast<double>(limits.max_block_bytes) / (1 << 20)));
        }
    }

    Stacker constants(plan, limits.alignment, block_limit);
    for (std::uint32_t i = 0; i < tensors.size(); ++i) {
        if (tensors[i].lifetime == Lifetime::constant) constants.place(i, tensors[i].bytes);
    }
    Stacker persistent(plan, limits.alignment, block_limit);
    for (std::uint32_t i = 0; i < tensors.size(); ++i) {
        if (tensors[i].lifetime == Lifetime::persistent) persistent.place(i, tensors[i].bytes);
    }

    // Operations are in phase order, so lifetimes by operation index keep phases apart by
    // themselves.
    std::vector<std::uint32_t> order;
    for (std::uint32_t i = 0; i < tensors.size(); ++i) {
        if (tensors[i].lifetime == Lifetime::transient && uses[i].used()) order.push_back(i);
    }
    std::stable_sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
        return tensors[a].bytes > tensors[b].bytes;
    });
    struct Placed {
        std::uint64_t begin, end;
        Use use;
    };
    std::vector<std::vector<Placed>> blocks;
    const std::uint32_t first_block = static_cast<std::uint32_t>(plan.block_bytes.size());
    for (const std::uint32_t tensor : order) {
        const std::uint64_t bytes = align_up(tensors[tensor].bytes, limits.alignment);
        for (std::uint32_t b = 0;; ++b) {
            if (b == blocks.size()) {
                blocks.emplace_back();
                plan.block_bytes.push_back(0);
            }
            auto& block = blocks[b];  // sorted by begin
            std::uint64_t offset = 0;
            for (const Placed& other : block) {
                const bool together =
                    other.use.first <= uses[tensor].last && uses[tensor].first <= other.use.last;
                if (!together) continue;
                if (offset + bytes <= other.begin) break;
                offset = std::max(offset, other.end);
            }
            if (offset + bytes > block_limit) continue;
            const Placed placed{offset, offset + bytes, uses[tensor]};
            block.insert(std::upper_bound(
                             block.begin(), block.end(), placed,
                             [](const Placed& x, const Placed& y) { return x.begin < y.begin; }),
                         placed);
            plan.places[tensor] = {first_block + b, offset};
            std::uint64_t& size = plan.block_bytes[first_block + b];
            size = std::max(size, offset + bytes);
            break;
        }
    }
    const std::uint64_t transient = std::accumulate(plan.block_bytes.begin() + first_block,
                                                    plan.block_bytes.end(), std::uint64_t{0});
    plan.constant_bytes = constants.total;
    plan.working_bytes = persistent.total + transient;
    return plan;
}

}  // namespace quantsparse::program
