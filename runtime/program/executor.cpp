#include "program/executor.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <set>

#include "program/hazards.hpp"
#include "program/rates.hpp"
#include "program/slices.hpp"
#include "program/stream_use.hpp"
#include "program/streamer.hpp"
#include "quantsparse/error.hpp"
#include "vulkan/arena.hpp"
#include "vulkan/device.hpp"
#include "vulkan/pipeline_cache.hpp"

namespace quantsparse::program {
namespace {

using Clock = std::chrono::steady_clock;

/// Arithmetic a second to assume of what was not measured yet: slower than the slowest kernel, so
/// that first submissions are short.
double initial_rate(const std::string& kind) {
    if (kind == "cpu") return 1e8;
    return kind == "discrete" ? 2e10 : 2e9;
}

/// Operations cost something even when they compute nothing.
constexpr double kMinimumWork = 1e4;

/// Phases whose submissions are short for another reason are not cut anew for ever.
constexpr int kMaxRecordings = 4;

struct Batch {
    vk::raii::CommandBuffer commands{nullptr};
    std::vector<Rates::Part> parts;
    double seconds = 0;     ///< expected
    bool compiles = false;  ///< a pipeline runs for the first time: drivers may compile it then
    StreamUse use;
    std::vector<std::uint32_t> next;  ///< of each kind the group that later batches need first
};

struct Phase {
    std::vector<Batch> batches;  ///< empty: to be cut anew
    int recordings = 0;
    std::vector<std::uint32_t> operations;
    std::vector<std::uint32_t> kinds;  ///< of Rates, one per operation
    double work = 0;
    vk::DescriptorPool pool;
    std::vector<vk::raii::DescriptorSet> sets;  ///< of the operations recorded so far
    LookAhead ahead;                            ///< where something is streamed
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
          rates(initial_rate(device.capabilities().info.kind)),
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

    /// What recording needs to know of a phase, once.
    void prepare(Phase& phase) {
        if (!phase.kinds.empty()) return;
        std::uint32_t buffers = 0, texel_buffers = 0;
        for (const std::uint32_t i : phase.operations) {
            const Operation& operation = program.operations()[i];
            phase.kinds.push_back(rates.kind_of(operation));
            phase.work += work_of(operation);
            for (const Binding& binding : operation.bindings) {
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
        phase.pool = *descriptor_pools.back();
        if (streamer) phase.ahead = LookAhead(program, plan, phase.operations);
    }

    /// Of operation `n` of the phase, made when it is first recorded: compiling its pipeline may
    /// take a while, so that progress is told in between.
    const vk::raii::DescriptorSet& set_of(Phase& phase, std::size_t n,
                                          const vulkan::Pipeline& pipeline) {
        if (n < phase.sets.size()) return phase.sets[n];
        const Operation& operation = program.operations()[phase.operations[n]];
        auto sets = vk::raii::DescriptorSets(
            device.logical(), vk::DescriptorSetAllocateInfo(phase.pool, *pipeline.set_layout));
        std::vector<vk::DescriptorBufferInfo> ranges(operation.bindings.size());
        std::vector<vk::BufferView> handles(operation.bindings.size());
        std::vector<vk::WriteDescriptorSet> writes;
        for (std::uint32_t b = 0; b < operation.bindings.size(); ++b) {
            const Binding& binding = operation.bindings[b];
            const Place& place = plan.places[binding.tensor.id];
            const std::uint64_t offset = place.offset + binding.offset;
            if (binding.texels) {
                views.emplace_back(
                    device.logical(),
                    vk::BufferViewCreateInfo({}, arena.buffer(place.block),
                                             vk::Format::eR32G32B32A32Uint, offset, binding.bytes));
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
        return phase.sets.back();
    }

    /// Where the host writes and reads the tensor: on the device, or its copy in host memory.
    struct HostPlace {
        vulkan::Arena& memory;
        Place place;
    };
    HostPlace host_place(Tensor tensor) const {
        const Place& place = plan.places[tensor.id];
        if (!is_streamed(program, plan, tensor)) return {arena, place};
        const StreamPlace& group = plan.groups[program.tensors()[tensor.id].group];
        return {streamer->settled(),
                {group.host.block, group.host.offset + place.offset - group.device.offset}};
    }
    void host_changed(Tensor tensor) {
        if (is_streamed(program, plan, tensor))
            streamer->invalidate(program.tensors()[tensor.id].group);
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

    /// All that operation `n` of the phase needs before it is dispatched.
    void bind(const Batch& batch, Phase& phase, std::size_t n, const vulkan::Pipeline& pipeline) {
        const auto point = vk::PipelineBindPoint::eCompute;
        batch.commands.bindPipeline(point, *pipeline.pipeline);
        batch.commands.bindDescriptorSets(point, *pipeline.layout, 0, *set_of(phase, n, pipeline),
                                          {});
        batch.commands.pushConstants<std::byte>(*pipeline.layout, vk::ShaderStageFlagBits::eCompute,
                                                0, program.operations()[phase.operations[n]].push);
    }

    static double work_of(const Operation& operation) {
        return std::max(operation.work, kMinimumWork);
    }

    /// Records operations from the cursor on that are expected to take kTargetSeconds at most, or
    /// the smallest piece of one that takes longer.
    Batch record_batch(Phase& phase, Cursor& cursor) {
        Batch batch = begin_batch();
        HazardTracker hazards(plan);
        while (cursor.operation < phase.operations.size()) {
            const std::size_t n = cursor.operation;
            const Operation& operation = program.operations()[phase.operations[n]];
            StreamUse use = batch.use;
            if (!add_use(use, operation, program, plan)) {
                if (!batch.parts.empty()) break;
                throw Error(ErrorCode::unsupported,
                            operation.name + " uses two layers' tensors at once");
            }
            const double work = work_of(operation);
            const double budget =
                std::min(kTargetSeconds - batch.seconds, rates.trusted_seconds(phase.kinds[n]));
            const auto slice = take_slice(operation, rates.seconds(phase.kinds[n], work), budget,
                                          batch.parts.empty(), cursor);
            if (!slice) break;
            batch.use = std::move(use);

            const vulkan::Pipeline& pipeline = pipeline_of(operation);
            batch.compiles |= pipelines_used.insert(&pipeline).second;
            if (hazards.needs_barrier(operation)) memory_barrier(batch.commands);
            bind(batch, phase, n, pipeline);
            batch.commands.dispatchBase(slice->first[0], slice->first[1], slice->first[2],
                                        slice->count[0], slice->count[1], slice->count[2]);
            batch.seconds += rates.seconds(phase.kinds[n], work * slice->share);
            const Rates::Part part{phase.kinds[n], work * slice->share};
            if (!batch.parts.empty() && batch.parts.back().kind == part.kind) {
                batch.parts.back().work += part.work;
            } else {
                batch.parts.push_back(part);
            }
            if (cursor.operation == n) break;  // the rest goes into submissions of its own
        }
        if (streamer) batch.next = phase.ahead.next_groups(cursor.operation, batch.use);
        end_batch(batch);
        return batch;
    }

    /// Profiling runs each operation in a submission of its own between two timestamps: slower, but
    /// the times are those of the operation alone.
    bool run_profiled(Phase& phase, const Between& between) {
        prepare(phase);
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
            bind(batch, phase, static_cast<std::size_t>(n), pipeline);
            batch.commands.writeTimestamp(vk::PipelineStageFlagBits::eBottomOfPipe, *queries, 0);
            batch.commands.dispatch(operation.groups[0], operation.groups[1], operation.groups[2]);
            batch.commands.writeTimestamp(vk::PipelineStageFlagBits::eBottomOfPipe, *queries, 1);
            end_batch(batch);
            if (streamer) {
                add_use(batch.use, operation, program, plan);
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

    bool run(std::uint32_t index, const Between& between) {
        Phase& phase = phases.at(index);
        if (phase.operations.empty()) return true;
        if (profiling) return run_profiled(phase, between);
        prepare(phase);
        const char* name = program.phases()[index].c_str();
        const bool recording = phase.batches.empty();
        phase.recordings += recording;
        Cursor cursor;
        double seconds = 0, longest = 0, work = 0;
        bool compiled = false;
        for (std::size_t i = 0;
             recording ? cursor.operation < phase.operations.size() : i < phase.batches.size();
             ++i) {
            // Each is recorded with what those before it have taught.
            if (recording) phase.batches.push_back(record_batch(phase, cursor));
            const Batch& batch = phase.batches[i];
            if (streamer) streamer->require(batch.use.groups, batch.use.written);
            const auto start = Clock::now();
            device.submit(batch.commands, name);
            if (streamer) streamer->prefetch(batch.next, batch.use.groups);
            device.wait(name);
            const double taken = std::chrono::duration<double>(Clock::now() - start).count();
            seconds += taken;
            const bool compiles = recording && batch.compiles;
            compiled |= compiles;
            double& longest_of_kind = compiles ? longest_compiling : longest_submission;
            longest_of_kind = std::max(longest_of_kind, taken);
            longest = std::max(longest, taken);
            if (!compiles) rates.learn(batch.parts, taken);
            for (const Rates::Part& part : batch.parts) work += part.work;
            if (!between) continue;
            // How many submissions there will be is known once all are recorded.
            constexpr int kParts = 1000;
            const bool last = cursor.operation == phase.operations.size();
            const int done =
                recording
                    ? last ? kParts : static_cast<int>(kParts * std::min(1.0, work / phase.work))
                    : static_cast<int>(i + 1);
            const int total = recording ? kParts : static_cast<int>(phase.batches.size());
            if (!between(done, total)) {
                if (recording) phase.batches.clear();
                return false;
            }
        }
        const bool too_long = longest > 1.5 * kTargetSeconds;
        const bool too_short = phase.batches.size() > 1 && longest < 0.4 * kTargetSeconds &&
                               seconds > 0.02 && phase.recordings < kMaxRecordings;
        if (too_long || too_short || (compiled && phase.batches.size() > 1)) phase.batches.clear();
        return true;
    }

    vulkan::Device& device;
    Program program;
    Plan plan;
    mutable vulkan::Arena arena;
    std::unique_ptr<Streamer> streamer;  ///< only where something is streamed
    bool profiling;
    Rates rates;
    std::set<const vulkan::Pipeline*> pipelines_used;
    double longest_submission = 0;  ///< of those that use no pipeline for the first time
    double longest_compiling = 0;   ///< of those that do: some drivers compile when they run
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

bool Executor::run(std::uint32_t phase, const Between& between) {
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

double Executor::longest_compiling_seconds() const {
    return impl_->longest_compiling;
}

}  // namespace quantsparse::program
