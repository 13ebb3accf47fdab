#include "format/networks/shapes.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "format/text.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::format {

int dimension(const Checkpoint& checkpoint, const std::string& name, std::size_t axis) {
    const auto& view = checkpoint.at(name);
    if (axis >= view.shape.size() || view.shape[axis] < 1 || view.shape[axis] > (1 << 24)) {
        throw Error(ErrorCode::bad_file,
                    fmt::format("tensor '{}' of '{}' has the unexpected shape {}", name,
                                checkpoint.path().string(), shape_text(view.shape)));
    }
    return static_cast<int>(view.shape[axis]);
}

int count_blocks(const Checkpoint& checkpoint, const char* list, const char* tensor) {
    int count = 0;
    while (checkpoint.find(fmt::format("{}{}.{}", list, count, tensor)) != nullptr) {
        ++count;
    }
    return std::max(count, 1);
}

}  // namespace quantsparse::format
