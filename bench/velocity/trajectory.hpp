// The run of the unquantised model that the rows of a prompt are compared with: the latent before
// each step, what the transformer predicts there with guidance, and the latent at the end. One
// file, read a step at a time: a clip of Wan at its own size takes 17 MB a step.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <span>
#include <vector>

namespace quantsparse::bench {

class TrajectoryWriter {
  public:
    /// Writes beside `file` until finish(). Throws Error(io), as all do.
    TrajectoryWriter(std::filesystem::path file, int steps);
    /// Takes away what was not finished.
    ~TrajectoryWriter();
    TrajectoryWriter(const TrajectoryWriter&) = delete;
    TrajectoryWriter& operator=(const TrajectoryWriter&) = delete;
    /// Alternately the latent and the prediction of a step; after the last step the final latent.
    void add(std::span<const float> values);
    void finish();

  private:
    std::filesystem::path file_, beside_;
    std::ofstream out_;
    std::uint64_t steps_;
    bool begun_ = false;
};

class Trajectory {
  public:
    /// Throws Error(io) or Error(bad_file).
    explicit Trajectory(const std::filesystem::path& file);
    int steps() const { return static_cast<int>(steps_); }
    std::vector<float> latent(int step) { return read(2 * static_cast<std::uint64_t>(step)); }
    std::vector<float> prediction(int step) {
        return read(2 * static_cast<std::uint64_t>(step) + 1);
    }
    std::vector<float> final_latent() { return read(2 * steps_); }

  private:
    std::vector<float> read(std::uint64_t index);

    std::filesystem::path file_;
    std::ifstream in_;
    std::uint64_t steps_ = 0;
    std::uint64_t count_ = 0;  ///< values of a latent
};

}  // namespace quantsparse::bench
