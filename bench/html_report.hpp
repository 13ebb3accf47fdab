// A self-contained HTML page: headings, tables, charts drawn as SVG, pictures embedded. No scripts,
// no other files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace quantsparse::bench {

struct Series {
    std::string name;
    std::vector<double> x;
    std::vector<double> y;
    std::vector<double> error;  ///< half the length of each error bar; may be empty
};

struct LineChart {
    std::string title;
    std::string x_label;
    std::string y_label;
    std::vector<Series> series;
    bool logarithmic_x = false;
};

struct Bar {
    std::string label;
    double value = 0;
    std::string text;  ///< printed at the bar's end
};

class HtmlReport {
  public:
    explicit HtmlReport(const std::string& title);

    void heading(const std::string& text);
    void paragraph(const std::string& text);
    void preformatted(const std::string& text);
    /// Cells are plain text; columns from the second on are aligned to the right.
    void table(const std::vector<std::string>& header,
               const std::vector<std::vector<std::string>>& rows);
    void line_chart(const LineChart& chart);
    void bar_chart(const std::string& title, const std::vector<Bar>& bars);
    void picture(std::span<const std::uint8_t> png, const std::string& caption);

    /// Throws Error(io). Written beside and renamed.
    void write(const std::filesystem::path& file) const;

  private:
    std::string title_;
    std::string body_;
};

}  // namespace quantsparse::bench
