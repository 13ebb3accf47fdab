// Runs a Program on a device: allocates its plan, records command buffers once, replays them.
//
// Submissions are cut so that none runs much longer than kTargetSeconds (drivers reset a GPU that
// is busy for too long); between them the caller hears of progress and may cancel. Barriers come
// from the operations' declared reads and writes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "program/plan.hpp"
#include "program/program.hpp"

namespace quantsparse::vulkan {
class Device;
}

namespace quantsparse::program {

/// Called between pieces of work with how much of it is done; cancels by returning false.
using Between = std::function<bool(int done, int total)>;

struct OperationProfile {
    std::string name;
    std::uint64_t calls = 0;
    double milliseconds = 0;
};

class Executor {
  public:
    static constexpr double kTargetSeconds = 0.1;

    /// Allocates everything the plan says. `program` is copied. `profile`: timestamps per
    /// operation. `force_staging`: memory as on a discrete GPU, for the tests. `residency`: what
    /// lives in host memory.
    Executor(vulkan::Device& device, Program program, bool profile = false,
             bool force_staging = false, const Residency& residency = {});
    ~Executor();
    Executor(Executor&&) noexcept;

    const Program& program() const;

    /// Host access to constant and persistent tensors; blocks until done.
    void write(Tensor tensor, std::span<const std::byte> data, std::uint64_t offset = 0);
    void read(Tensor tensor, std::span<std::byte> data, std::uint64_t offset = 0) const;
    template <typename T>
    void write_values(Tensor tensor, std::span<const T> values) {
        write(tensor, std::as_bytes(values));
    }
    template <typename T>
    std::vector<T> read_values(Tensor tensor, std::size_t count) const {
        std::vector<T> values(count);
        read(tensor, std::as_writable_bytes(std::span<T>(values)));
        return values;
    }
    void clear(Tensor tensor);

    /// Runs one phase; blocks. `between` is called after each submission; where it cancels, run()
    /// returns false.
    bool run(std::uint32_t phase, const Between& between = {});

    std::vector<OperationProfile> profile() const;
    /// Of the submissions that use no pipeline for the first time, and of those that do: CPU
    /// drivers compile when a kernel first runs, which can't be cut.
    double longest_submission_seconds() const;
    double longest_compiling_seconds() const;

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace quantsparse::program
