#include "format/networks/shapes.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "format/networks/names.hpp"
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

int count_blocks(const Checkpoint& checkpoint, std::string_view list) {
    int count = 0;
    for (const auto& name : checkpoint.names()) {
        if (name.starts_with(list)) {
            std::string_view rest = std::string_view(name).substr(list.size());
            count = std::max(count, take_number(rest) + 1);
        }
    }
    return std::max(count, 1);
}

}  // namespace quantsparse::format
