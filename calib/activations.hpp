// What collecting leaves behind: for every group of linears that share an input, how large each
// input channel gets and a bounded sample of input rows. No Torch here.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "format/network.hpp"

namespace quantsparse::calib {

struct GroupActivations {
    std::vector<float> absmax;  ///< per channel: largest of a forward, averaged over the forwards
    std::vector<float> rows;    ///< [row_count, width], a sample over all forwards
    /// [forwards, width]: largest of each forward, where they are kept apart; else empty.
    std::vector<float> observations;
    int width = 0;
    int forwards = 0;
    int row_count() const { return width == 0 ? 0 : static_cast<int>(rows.size()) / width; }
};

/// One forward's contribution to a group.
struct Observation {
    std::vector<float> absmax;  ///< per channel
    std::vector<float> rows;    ///< the ones kept
};

/// Maxima of rows [count, width], and `keep` of them evenly spread from row `start` on.
Observation observe_rows(std::span<const float> rows, int width, int keep, std::size_t start);

/// All groups of all blocks.
class CollectedActivations {
  public:
    CollectedActivations() = default;
    /// `keep_observations`: each forward's maxima are wanted, not only their average.
    explicit CollectedActivations(const format::Network& network, bool keep_observations = false);

    GroupActivations& group(int block, std::string_view group);
    const GroupActivations& group(int block, std::string_view group) const;

    void add(int block, std::string_view group, const Observation& observation);
    /// Turns sums of maxima into averages; to be called once, after the last add().
    void finish();

    void save(const std::filesystem::path& path, const std::string& fingerprint) const;
    /// Nothing when the file is missing, unreadable, or of another calibration.
    static std::optional<CollectedActivations> load(const std::filesystem::path& path,
                                                    const std::string& fingerprint,
                                                    const format::Network& network);

  private:
    /// By "<block prefix><group>", in the network's order.
    std::vector<std::pair<std::string, GroupActivations>> groups_;
    std::vector<std::string> prefixes_;  ///< of the blocks
    bool keep_observations_ = false;
};

}  // namespace quantsparse::calib
