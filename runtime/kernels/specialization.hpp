// Specialisation constants by the names that the shaders give them (<shaders/STEM.hpp>, which
// shaders/interface.cmake reads from the GLSL).
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <utility>
#include <vector>

namespace quantsparse::kernels {

template <typename Constant>
class Specialization {
  public:
    /// `lanes`: the work-group's width, id 0 of every shader.
    explicit Specialization(std::uint32_t lanes,
                            std::initializer_list<std::pair<Constant, std::uint32_t>> values = {}) {
        values_[0] = lanes;
        for (const auto& [constant, value] : values) set(constant, value);
    }

    void set(Constant constant, std::uint32_t value) {
        values_[static_cast<std::uint32_t>(constant)] = value;
    }
    /// Neighbours, as a file that several shaders include declares them.
    void set_from(Constant first, const std::vector<std::uint32_t>& values) {
        for (std::uint32_t i = 0; i < values.size(); ++i) {
            values_[static_cast<std::uint32_t>(first) + i] = values[i];
        }
    }

    /// Value i of id i; zero for those in between, which other variants of the shader have.
    operator std::vector<std::uint32_t>() const {
        std::vector<std::uint32_t> result(values_.rbegin()->first + std::size_t{1}, 0);
        for (const auto& [id, value] : values_) result[id] = value;
        return result;
    }

  private:
    std::map<std::uint32_t, std::uint32_t> values_;  ///< by id
};

}  // namespace quantsparse::kernels
