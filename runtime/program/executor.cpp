#include "program/executor.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <map>

#include "program/streamer.hpp"
#include "quantsparse/error.hpp"
#include "vulkan/arena.hpp"
#include "vulkan/device.hpp"
#include "vulkan/pipeline_cache.hpp"

namespace quantsparse::program {
namespace {

using Clock = std::chrono::steady_clock;

/// Arithmetic a second to assume before anything was measured: low, so that first submissions are
/// short.
double initial_rate(const std::string& kind) {
    if (kind == "cpu") return 1e9;
    return kind == "discrete" ? 1e12 : 1e11;
}

/// Operations cost something even when they compute nothing.
constexpr double kMinimumWork = 1e4;

/// What operations since the last barrier have touched: decides when the next barrier is due.
class HazardTracker {
  public:
    struct Range {
        std::uint32_t block;
        std::uint64_t begin, end;
    };

    /// True when `range` can't be accessed without a barrier first.
    bool conflicts(const Range& range, bool writes) const {
        const auto overlaps = [&](const Range& other) {
            return other.block == range.block && other.begin < range.end && range.begin < other.end;
        };
        return std::any_of(written_.begin(), written_.end(), overlaps) ||
               (writes && std::any_of(read_.begin(), read_.end(), overlaps));
    }
    void add(const Range& range, bool reads, bool writes) {
        if (reads) read_.push_back(range);
        if (writes) written_.push_back(range);
    }
    void clear() {
        read_.clear();
        written_.clear();
    }

  private:
    std::vector<Range> read_, written_;
};

/// The streamed groups that operations use, at most one of each kind.
struct StreamUse {
    std::vector<std::uint32_t> groups;
    std::vector<std::uint32_t> written;
};

struct Batch {
    vk::raii::CommandBuffer commands{nullptr};
    double work = 0;
    StreamUse use;
    std::vector<std::uint32_t> next;  ///< of each kind the group that later batches need first
};

struct Phase {
    std::vector<Batch> batches;
    double rate = 0;  ///< work a second the batches were cut for
    std::vector<std::uint32_t> operations;
    std::vector<vk::raii::DescriptorSet> sets;  ///< one per operation of the phase
};

}  // namespace

struct Executor::Impl {
    Impl(vulkan::Device& device_in, Program program_in, bool profile_in, bool force_staging,
         const Residency& residency)
        : device(device_in),
          program(std::move(program_in)),
          plan(make_plan(program, residency)),
          arena(device, plan.block_bytes, vulkan::Arena::Home::device, force_staging),
          profiling(profile_in && device.capabilities().timestamp_valid_bits > 0),
          phases(std::max<std::size_t>(1, program.phases().size())) {
        if (plan.slots > 0) streamer = std::make_unique<Streamer>(device, plan, arena);
        pool = vk::raii::CommandPool(
            device.logical(),
            vk::CommandPoolCreateInfo(vk::CommandPoolCreateFlagBits::eResetCommandBuffer,
                                      device.capabilities().queue_family));
        for (std::uint32_t i = 0; i < program.operations().size(); ++i) {
            phases[program.operations()[i].phase].operations.push_back(i);
        }
    }

    static vk::DescriptorType type_of(const Binding& binding) {
        return binding.texels ? vk::DescriptorType::eUniformTexelBuffer
                              : vk::DescriptorType::eStorageBuffer;
    }

    const vulkan::Pipeline& pipeline_of(const Operation& operation) {
        std::vector<vk::DescriptorType> types;
        for (const Binding& binding : operation.bindings) types.push_back(type_of(binding));
        return device.pipelines().get(operation.shader, operation.specialization, types,
                                      static_cast<std::uint32_t>(operation.push.size()));
    }

    void make_descriptor_sets(Phase& phase) {
        if (!phase.sets.empty() || phase.operations.empty()) return;
        std::uint32_t buffers = 0, texel_buffers = 0;
        for (const std::uint32_t i : phase.operations) {
            for (const Binding& binding : program.operations()[i].bindings) {
                ++(binding.texels ? texel_buffers : buffers);
            }
        }
        std::vector<vk::DescriptorPoolSize> sizes;
        if (buffers) sizes.emplace_back(vk::DescriptorType::eStorageBuffer, buffers);
        if (texel_buffers)
            sizes.emplace_back(vk::DescriptorType::eUniformTexelBuffer, texel_buffers);
        descriptor_pools.emplace_back(
            device.logical(), vk::DescriptorPoolCreateInfo(
                                  vk::DescriptorPoolCreateFlagBits::eFreeDescriptorSet,
                                  static_cast<std::uint32_t>(phase.operations.size()), sizes));
        for (const std::uint32_t i : phase.operations) {
            const Operation& operation = program.operations()[i];
            const vulkan::Pipeline& pipeline = pipeline_of(operation);
            auto sets = vk::raii::DescriptorSets(
                device.logical(),
                vk::DescriptorSetAllocateInfo(*descriptor_pools.back(), *pipeline.set_layout));
            std::vector<vk::DescriptorBufferInfo> ranges(operation.bindings.size());
            std::vector<vk::BufferView> handles(operation.bindings.size());
            std::vector<vk::WriteDescriptorSet> writes;
            for (std::uint32_t b = 0; b < operation.bindings.size(); ++b) {
                const Binding& binding = operation.bindings[b];
                const Place& place = plan.places[binding.tensor.id];
                const std::uint64_t offset = place.offset + binding.offset;
                if (binding.texels) {
                    views.emplace_back(device.logical(),
                                       vk::BufferViewCreateInfo({}, arena.buffer(place.block),
                                                                vk::Format::eR32G32B32A32Uint,
                                                                offset, binding.bytes));
                    handles[b] = *views.back();
                } else {
                    ranges[b] =
                        vk::DescriptorBufferInfo(arena.buffer(place.block), offset, binding.bytes);
                }
                writes.emplace_back(*sets.front(), b, 0, 1, type_of(binding), nullptr,
                                    binding.texels ? nullptr : &ranges[b],
                                    binding.texels ? &handles[b] : nullptr);
            }
            device.logical().updateDescriptorSets(writes, {});
            phase.sets.push_back(std::move(sets.front()));
        }
    }

    bool is_streamed(Tensor tensor) const {
        const std::uint32_t group = program.tensors()[tensor.id].group;
        return group != kNoGroup && plan.groups[group].streamed;
    }

    /// Where the host writes and reads the tensor: on the device, or its copy in host memory.
    struct HostPlace {
        vulkan::Arena& memory;
        Place place;
    };
    HostPlace host_place(Tensor tensor) const {
        const Place& place = plan.places[tensor.id];
        if (!is_streamed(tensor)) return {arena, place};
        const StreamPlace& group = plan.groups[program.tensors()[tensor.id].group];
        return {streamer->settled(),
                {group.host.block, group.host.offset + place.offset - group.device.offset}};
    }
    void host_changed(Tensor tensor) {
        if (is_streamed(tensor)) streamer->invalidate(program.tensors()[tensor.id].group);
    }

    /// Adds what the operation uses; false (and nothing added) when it needs another group of a
    /// kind than those in `use`, whose slot may be being filled.
    bool add_use(StreamUse& use, const Operation& operation) const {
        StreamUse sum = use;
        for (const Binding& binding : operation.bindings) {
            if ((!binding.reads && !binding.writes) || !is_streamed(binding.tensor)) continue;
            const std::uint32_t group = program.tensors()[binding.tensor.id].group;
            const auto same_kind = [&](std::uint32_t other) {
                return program.stream_groups()[other].kind == program.stream_groups()[group].kind;
            };
            const auto found = std::find_if(sum.groups.begin(), sum.groups.end(), same_kind);
            if (found == sum.groups.end())
                sum.groups.push_back(group);
            else if (*found != group)
                return false;
            if (binding.writes &&
                std::find(sum.written.begin(), sum.written.end(), group) == sum.written.end()) {
                sum.written.push_back(group);
            }
        }
        use = std::move(sum);
        return true;
    }

    /// Tells each batch which groups to fetch while it runs.
    void look_ahead(Phase& phase) const {
        // Of each kind, from the back: the group that comes first, and the first one after it.
        std::array<std::uint32_t, kStreamKinds> first, second;
        first.fill(kNoGroup);
        second.fill(kNoGroup);
        for (auto batch = phase.batches.rbegin(); batch != phase.batches.rend(); ++batch) {
            std::array<std::uint32_t, kStreamKinds> used;
            used.fill(kNoGroup);
            for (const std::uint32_t group : batch->use.groups) {
                used[static_cast<std::size_t>(program.stream_groups()[group].kind)] = group;
            }
            for (std::size_t kind = 0; kind < kStreamKinds; ++kind) {
                const std::uint32_t next = first[kind] == used[kind] ? second[kind] : first[kind];
                if (next != kNoGroup) batch->next.push_back(next);
                if (used[kind] == kNoGroup || used[kind] == first[kind]) continue;
                second[kind] = first[kind];
                first[kind] = used[kind];
            }
        }
    }

    static void memory_barrier(const vk::raii::CommandBuffer& commands) {
        const vk::MemoryBarrier barrier(
            vk::AccessFlagBits::eShaderWrite,
            vk::AccessFlagBits::eShaderRead | vk::AccessFlagBits::eShaderWrite);
        commands.pipelineBarrier(vk::PipelineStageFlagBits::eComputeShader,
                                 vk::PipelineStageFlagBits::eComputeShader, {}, barrier, {}, {});
    }

    Batch begin_batch() {
        Batch batch;
        batch.commands =
            std::move(vk::raii::CommandBuffers(
                          device.logical(),
                          vk::CommandBufferAllocateInfo(*pool, vk::CommandBufferLevel::ePrimary, 1))
                          .front());
        batch.commands.begin(vk::CommandBufferBeginInfo());
        // Whatever ran before (another batch, a transfer) is finished; its writes become visible
        // here.
        const vk::MemoryBarrier everything(
            vk::AccessFlagBits::eMemoryWrite,
            vk::AccessFlagBits::eMemoryRead | vk::AccessFlagBits::eMemoryWrite);
        batch.commands.pipelineBarrier(vk::PipelineStageFlagBits::eAllCommands,
                                       vk::PipelineStageFlagBits::eAllCommands, {}, everything, {},
                                       {});
        return batch;
    }

    static void end_batch(Batch& batch) {
        const vk::MemoryBarrier to_host(
            vk::AccessFlagBits::eShaderWrite | vk::AccessFlagBits::eTransferWrite,
            vk::AccessFlagBits::eHostRead);
        batch.commands.pipelineBarrier(
            vk::PipelineStageFlagBits::eComputeShader | vk::PipelineStageFlagBits::eTransfer,
            vk::PipelineStageFlagBits::eHost, {}, to_host, {}, {});
        batch.commands.end();
    }

    /// Records the phase for `wanted_rate` (work a second), slicing operations that are too long on
    /// their own.
    void record(Phase& phase, double wanted_rate) {
        make_descriptor_sets(phase);
        phase.batches.clear();
        phase.rate = wanted_rate;
        const double budget = wanted_rate * kTargetSeconds;
        HazardTracker hazards;
        Batch batch = begin_batch();
        const auto cut = [&] {
            end_batch(batch);
            phase.batches.push_back(std::move(batch));
            batch = begin_batch();
            hazards.clear();
        };
        for (std::size_t n = 0; n < phase.operations.size(); ++n) {
            const Operation& operation = program.operations()[phase.operations[n]];
            const double work = std::max(operation.work, kMinimumWork);
            const vulkan::Pipeline& pipeline = pipeline_of(operation);

            // Slices along the dimension with the most groups.
            const auto& groups = operation.groups;
            const std::size_t axis = static_cast<std::size_t>(
                std::max_element(groups.begin(), groups.end()) - groups.begin());
            const std::uint32_t slices = static_cast<std::uint32_t>(
                std::clamp(std::ceil(work / budget), 1.0, static_cast<double>(groups[axis])));
            const std::uint32_t step = (groups[axis] + slices - 1) / slices;

            if (!add_use(batch.use, operation)) {
                if (batch.work > 0) cut();
                if (!add_use(batch.use, operation)) {
                    throw Error(ErrorCode::unsupported,
                                operation.name + " uses two layers' tensors at once");
                }
            }
            for (std::uint32_t base = 0; base < groups[axis]; base += step) {
                const double slice_work = work / slices;
                if (batch.work > 0 && batch.work + slice_work > budget) {
                    cut();
                    add_use(batch.use, operation);
                }

                bool conflict = false;
                for (const bool adding : {false, true}) {
                    for (const Binding& binding : operation.bindings) {
                        if (!binding.reads && !binding.writes) continue;
                        const Place& place = plan.places[binding.tensor.id];
                        const std::uint64_t begin = place.offset + binding.offset;
                        const HazardTracker::Range range{place.block, begin, begin + binding.bytes};
                        if (adding) {
                            hazards.add(range, binding.reads, binding.writes);
                        } else if (base ==
                                   0) {  // slices of one operation don't depend on each other
                            conflict |= hazards.conflicts(range, binding.writes);
                        }
                    }
                    if (!adding && conflict) {
                        memory_barrier(batch.commands);
                        hazards.clear();
                    }
                }

                batch.commands.bindPipeline(vk::PipelineBindPoint::eCompute, *pipeline.pipeline);
                batch.commands.bindDescriptorSets(vk::PipelineBindPoint::eCompute, *pipeline.layout,
                                                  0, *phase.sets[n], {});
                batch.commands.pushConstants<std::byte>(
                    *pipeline.layout, vk::ShaderStageFlagBits::eCompute, 0, operation.push);
                std::array<std::uint32_t, 3> first = {0, 0, 0};
                std::array<std::uint32_t, 3> count = groups;
                first[axis] = base;
                count[axis] = std::min(step, groups[axis] - base);
                batch.commands.dispatchBase(first[0], first[1], first[2], count[0], count[1],
                                            count[2]);
                batch.work += slice_work;
            }
        }
        end_batch(batch);
        phase.batches.push_back(std::move(batch));
        if (streamer) look_ahead(phase);
    }

    /// Profiling runs each operation in a submission of its own between two timestamps: slower, but
    /// the times are those of the operation alone.
    bool run_profiled(Phase& phase, const std::function<bool(int, int)>& between) {
        make_descriptor_sets(phase);
        if (!*queries) {
            queries = vk::raii::QueryPool(
                device.logical(), vk::QueryPoolCreateInfo({}, vk::QueryType::eTimestamp, 2));
        }
        const double period_ms = device.capabilities().timestamp_period_ns * 1e-6;
        const int total = static_cast<int>(phase.operations.size());
        for (int n = 0; n < total; ++n) {
            const Operation& operation =
                program.operations()[phase.operations[static_cast<std::size_t>(n)]];
            const vulkan::Pipeline& pipeline = pipeline_of(operation);
            Batch batch = begin_batch();
            batch.commands.resetQueryPool(*queries, 0, 2);
            batch.commands.bindPipeline(vk::PipelineBindPoint::eCompute, *pipeline.pipeline);
            batch.commands.bindDescriptorSets(vk::PipelineBindPoint::eCompute, *pipeline.layout, 0,
                                              *phase.sets[static_cast<std::size_t>(n)], {});
            batch.commands.pushConstants<std::byte>(
                *pipeline.layout, vk::ShaderStageFlagBits::eCompute, 0, operation.push);
            batch.commands.writeTimestamp(vk::PipelineStageFlagBits::eBottomOfPipe, *queries, 0);
            batch.commands.dispatch(operation.groups[0], operation.groups[1], operation.groups[2]);
            batch.commands.writeTimestamp(vk::PipelineStageFlagBits::eBottomOfPipe, *queries, 1);
            end_batch(batch);
            if (streamer) {
                add_use(batch.use, operation);
                streamer->require(batch.use.groups, batch.use.written);
            }
            device.submit_and_wait(batch.commands, operation.name.c_str());
            const auto times = queries.getResults<std::uint64_t>(0, 2, 2 * sizeof(std::uint64_t),
                                                                 sizeof(std::uint64_t),
                                                                 vk::QueryResultFlagBits::e64);
            OperationProfile& entry = times_by_name[operation.name];
            entry.name = operation.name;
            ++entry.calls;
            entry.milliseconds +=
                static_cast<double>(times.second[1] - times.second[0]) * period_ms;
            if (between && !between(n + 1, total)) return false;
        }
        return true;
    }

    bool run(std::uint32_t index, const std::function<bool(int, int)>& between) {
        Phase& phase = phases.at(index);
        if (phase.operations.empty()) return true;
        if (profiling) return run_profiled(phase, between);
        if (phase.batches.empty()) {
            record(phase, rate > 0 ? rate : initial_rate(device.capabilities().info.kind));
        }
        const int total = static_cast<int>(phase.batches.size());
        double seconds = 0, work = 0, longest = 0;
        for (int i = 0; i < total; ++i) {
            const Batch& batch = phase.batches[static_cast<std::size_t>(i)];
            const char* name = program.phases()[index].c_str();
            if (streamer) streamer->require(batch.use.groups, batch.use.written);
            const auto start = Clock::now();
            device.submit(batch.commands, name);
            if (streamer) streamer->prefetch(batch.next, batch.use.groups);
            device.wait(name);
            const double taken = std::chrono::duration<double>(Clock::now() - start).count();
            seconds += taken;
            work += batch.work;
            longest = std::max(longest, taken);
            if (between && !between(i + 1, total)) return false;
        }
        longest_submission = std::max(longest_submission, longest);
        rate = work / std::max(seconds, 1e-6);
        adapt(phase, seconds, longest);
        return true;
    }

    /// Cuts the phase anew when its submissions are far from the target; the rate is that of the
    /// slowest submission, since kernels differ in how fast they work.
    void adapt(Phase& phase, double seconds, double longest) {
        const bool too_long = longest > 1.5 * kTargetSeconds;
        const bool too_short = phase.batches.size() > 1 && longest < 0.4 * kTargetSeconds;
        if (!too_long && !too_short) return;
        const double wanted = phase.rate * kTargetSeconds / std::max(longest, 1e-6) * 0.8;
        if (too_short && seconds < 0.02) return;
        phase.rate = wanted;
        record(phase, wanted);
    }

    vulkan::Device& device;
    Program program;
    Plan plan;
    mutable vulkan::Arena arena;
    std::unique_ptr<Streamer> streamer;  ///< only where something is streamed
    bool profiling;
    double rate = 0;
    double longest_submission = 0;
    vk::raii::CommandPool pool{nullptr};
    std::vector<vk::raii::BufferView> views;
    std::vector<vk::raii::DescriptorPool> descriptor_pools;
    vk::raii::QueryPool queries{nullptr};
    std::vector<Phase> phases;
    std::map<std::string, OperationProfile> times_by_name;
};

Executor::Executor(vulkan::Device& device, Program program, bool profile, bool force_staging,
                   const Residency& residency)
    : impl_(std::make_unique<Impl>(device, std::move(program), profile, force_staging, residency)) {
}
Executor::~Executor() = default;
Executor::Executor(Executor&&) noexcept = default;

const Program& Executor::program() const {
    return impl_->program;
}

void Executor::write(Tensor tensor, std::span<const std::byte> data, std::uint64_t offset) {
    const auto [memory, place] = impl_->host_place(tensor);
    memory.write(place.block, place.offset + offset, data);
    impl_->host_changed(tensor);
}

void Executor::read(Tensor tensor, std::span<std::byte> data, std::uint64_t offset) const {
    const auto [memory, place] = impl_->host_place(tensor);
    memory.read(place.block, place.offset + offset, data);
}

void Executor::clear(Tensor tensor) {
    const auto [memory, place] = impl_->host_place(tensor);
    memory.clear(place.block, place.offset, impl_->program.bytes_of(tensor));
    impl_->host_changed(tensor);
}

bool Executor::run(std::uint32_t phase, const std::function<bool(int, int)>& between) {
    return impl_->run(phase, between);
}

std::vector<OperationProfile> Executor::profile() const {
    std::vector<OperationProfile> result;
    for (const auto& [name, entry] : impl_->times_by_name) result.push_back(entry);
    std::sort(result.begin(), result.end(),
              [](const auto& a, const auto& b) { return a.milliseconds > b.milliseconds; });
    return result;
}

double Executor::longest_submission_seconds() const {
    return impl_->longest_submission;
}

}  // namespace quantsparse::program
