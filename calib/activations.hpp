// What collecting leaves behind: for every group of linears that share an input, how large each
// input channel gets and a bounded sample of input rows. No Torch here.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "format/model_config.hpp"

namespace quantsparse::calib {

/// Linears of a block that read the same rows, so that they share channel scale and rotation.
enum class InputGroup { self_qkv, self_o, cross_q, cross_kv, cross_o, ffn_0, ffn_2 };
inline constexpr std::array kInputGroups = {
    InputGroup::self_qkv, InputGroup::self_o, InputGroup::cross_q, InputGroup::cross_kv,
    InputGroup::cross_o,  InputGroup::ffn_0,  InputGroup::ffn_2};

const char* name_of(InputGroup group);
/// Input width of the group's linears.
int input_width(InputGroup group, const format::WanDitConfig& config);
/// Names of the group's linears, with their block: "blocks.3.self_attn.q"...
std::vector<std::string> linears_of(InputGroup group, int block);

struct GroupActivations {
    std::vector<float> absmax;  ///< per channel: largest of a forward, averaged over the forwards
    std::vector<float> rows;    ///< [row_count, width], a sample over all forwards
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
    explicit CollectedActivations(const format::WanDitConfig& config);

    GroupActivations& group(int block, InputGroup group);
    const GroupActivations& group(int block, InputGroup group) const;

    void add(int block, InputGroup group, const Observation& observation);
    /// Turns sums of maxima into averages; to be called once, after the last add().
    void finish();

    void save(const std::filesystem::path& path, const std::string& fingerprint) const;
    /// Nothing when the file is missing, unreadable, or of another calibration.
    static std::optional<CollectedActivations> load(const std::filesystem::path& path,
                                                    const std::string& fingerprint,
                                                    const format::WanDitConfig& config);

  private:
    std::vector<GroupActivations> groups_;  ///< [blocks * groups]
};

}  // namespace quantsparse::calib
