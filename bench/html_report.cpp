#include "html_report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "report.hpp"

namespace quantsparse::bench {
namespace {

constexpr std::array kColours = {"#1f77b4", "#d62728", "#2ca02c", "#9467bd",
                                 "#ff7f0e", "#8c564b", "#17becf", "#7f7f7f"};
constexpr double kWidth = 640, kHeight = 320;                        // of a chart
constexpr double kLeft = 64, kRight = 160, kTop = 16, kBottom = 44;  // around its axes

std::string escaped(const std::string& text) {
    std::string out;
    for (const char c : text) {
        switch (c) {
            case '&':
                out += "&amp;";
                break;
            case '<':
                out += "&lt;";
                break;
            case '>':
                out += "&gt;";
                break;
            case '"':
                out += "&quot;";
                break;
            default:
                out += c;
        }
    }
    return out;
}

std::string base64(std::span<const std::uint8_t> bytes) {
    static constexpr char kDigits[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string out;
    for (std::size_t i = 0; i < bytes.size(); i += 3) {
        const std::size_t left = std::min<std::size_t>(3, bytes.size() - i);
        std::uint32_t group = 0;
        for (std::size_t b = 0; b < 3; ++b) group = group << 8 | (b < left ? bytes[i + b] : 0u);
        for (std::size_t d = 0; d < 4; ++d) {
            out += d <= left ? kDigits[group >> (18 - 6 * d) & 63] : '=';
        }
    }
    return out;
}

/// The values an axis covers and where its marks are.
struct Axis {
    double low = 0, high = 1, step = 0.2;

    Axis(double least, double most) {
        if (!(most > least)) {
            least -= 0.5;
            most += 0.5;
        }
        const double rough = (most - least) / 5;
        const double power = std::pow(10.0, std::floor(std::log10(rough)));
        step = power * (rough / power > 5 ? 10 : rough / power > 2 ? 5 : rough / power > 1 ? 2 : 1);
        low = std::floor(least / step) * step;
        high = std::ceil(most / step) * step;
    }
    double place(double value) const { return (value - low) / (high - low); }
};

Axis axis_of(const LineChart& chart, bool horizontal) {
    double least = 1e300, most = -1e300;
    for (const Series& s : chart.series) {
        for (std::size_t i = 0; i < s.x.size(); ++i) {
            const double error = !horizontal && i < s.error.size() ? s.error[i] : 0;
            double value = horizontal ? s.x[i] : s.y[i];
            if (horizontal && chart.logarithmic_x) value = std::log2(value);
            if (!std::isfinite(value)) continue;
            least = std::min(least, value - error);
            most = std::max(most, value + error);
        }
    }
    return least <= most ? Axis(least, most) : Axis(0, 1);
}

std::string line(double x1, double y1, double x2, double y2, const char* style) {
    return fmt::format("<line x1='{:.1f}' y1='{:.1f}' x2='{:.1f}' y2='{:.1f}' {}/>", x1, y1, x2, y2,
                       style);
}

std::string text_at(double x, double y, const char* anchor, const std::string& text) {
    return fmt::format("<text x='{:.1f}' y='{:.1f}' text-anchor='{}'>{}</text>", x, y, anchor,
                       escaped(text));
}

}  // namespace

HtmlReport::HtmlReport(const std::string& title) : title_(title) {}

void HtmlReport::heading(const std::string& text) {
    body_ += "<h2>" + escaped(text) + "</h2>\n";
}

void HtmlReport::paragraph(const std::string& text) {
    body_ += "<p>" + escaped(text) + "</p>\n";
}

void HtmlReport::preformatted(const std::string& text) {
    body_ += "<pre>" + escaped(text) + "</pre>\n";
}

void HtmlReport::table(const std::vector<std::string>& header,
                       const std::vector<std::vector<std::string>>& rows) {
    const auto add_row = [this](const std::vector<std::string>& cells, const char* tag) {
        body_ += "<tr>";
        for (const std::string& cell : cells) {
            body_ += fmt::format("<{0}>{1}</{0}>", tag, escaped(cell));
        }
        body_ += "</tr>\n";
    };
    body_ += "<table>\n";
    add_row(header, "th");
    for (const auto& row : rows) add_row(row, "td");
    body_ += "</table>\n";
}

void HtmlReport::line_chart(const LineChart& chart) {
    const Axis horizontal = axis_of(chart, true), vertical = axis_of(chart, false);
    const double width = kWidth - kLeft - kRight, height = kHeight - kTop - kBottom;
    const auto px = [&](double x) {
        return kLeft + width * horizontal.place(chart.logarithmic_x ? std::log2(x) : x);
    };
    const auto py = [&](double y) { return kTop + height * (1 - vertical.place(y)); };
    body_ += fmt::format("<h3>{}</h3>\n<svg width='{}' height='{}'>", escaped(chart.title), kWidth,
                         kHeight);
    const char* grid = "stroke='#ddd'";
    for (double v = vertical.low; v <= vertical.high + vertical.step / 2; v += vertical.step) {
        body_ += line(kLeft, py(v), kLeft + width, py(v), grid);
        body_ += text_at(kLeft - 6, py(v) + 4, "end", fmt::format("{:.4g}", v));
    }
    const double step = chart.logarithmic_x ? std::max(1.0, horizontal.step) : horizontal.step;
    for (double v = horizontal.low; v <= horizontal.high + step / 2; v += step) {
        const double x = kLeft + width * horizontal.place(v);
        body_ += line(x, kTop, x, kTop + height, grid);
        const double shown = chart.logarithmic_x ? std::exp2(v) : v;
        body_ += text_at(x, kTop + height + 16, "middle", fmt::format("{:.4g}", shown));
    }
    body_ += text_at(kLeft + width / 2, kHeight - 8, "middle", chart.x_label);
    body_ += fmt::format(
        "<text transform='translate(14 {:.0f}) rotate(-90)' text-anchor='middle'>{}"
        "</text>",
        kTop + height / 2, escaped(chart.y_label));
    for (std::size_t n = 0; n < chart.series.size(); ++n) {
        const Series& s = chart.series[n];
        const char* colour = kColours[n % kColours.size()];
        std::string points;
        for (std::size_t i = 0; i < s.x.size(); ++i) {
            points += fmt::format("{:.1f},{:.1f} ", px(s.x[i]), py(s.y[i]));
            if (i < s.error.size()) {
                body_ += line(px(s.x[i]), py(s.y[i] - s.error[i]), px(s.x[i]),
                              py(s.y[i] + s.error[i]), fmt::format("stroke='{}'", colour).c_str());
            }
            if (s.x.size() <= 24) {
                body_ += fmt::format("<circle cx='{:.1f}' cy='{:.1f}' r='3' fill='{}'/>",
                                     px(s.x[i]), py(s.y[i]), colour);
            }
        }
        body_ += fmt::format("<polyline points='{}' fill='none' stroke='{}' stroke-width='1.5'/>",
                             points, colour);
        const double y = kTop + 14 + 18 * static_cast<double>(n);
        body_ += fmt::format("<g fill='{}'>{}</g>", colour,
                             text_at(kLeft + width + 10, y, "start", s.name));
    }
    body_ += "</svg>\n";
}

void HtmlReport::bar_chart(const std::string& title, const std::vector<Bar>& bars) {
    double most = 1e-300;
    for (const Bar& bar : bars) most = std::max(most, bar.value);
    body_ += fmt::format("<h3>{}</h3>\n<svg width='760' height='{}'>", escaped(title),
                         22 * bars.size() + 6);
    for (std::size_t i = 0; i < bars.size(); ++i) {
        const double y = 22 * static_cast<double>(i) + 4;
        const double width = 340 * std::max(0.0, bars[i].value) / most;
        body_ += text_at(300, y + 13, "end", bars[i].label);
        body_ += fmt::format("<rect x='308' y='{:.0f}' width='{:.1f}' height='16' fill='{}'/>", y,
                             width, kColours[0]);
        body_ += text_at(314 + width, y + 13, "start", bars[i].text);
    }
    body_ += "</svg>\n";
}

void HtmlReport::picture(std::span<const std::uint8_t> png, const std::string& caption) {
    body_ += fmt::format(
        "<figure><img src='data:image/png;base64,{}' "
        "alt=''/><figcaption>{}</figcaption></figure>\n",
        base64(png), escaped(caption));
}

void HtmlReport::write(const std::filesystem::path& file) const {
    write_text(file, fmt::format(R"(<!DOCTYPE html>
<html lang='en'><head><meta charset='utf-8'><title>{0}</title><style>
body {{ font: 15px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222 }}
table {{ border-collapse: collapse; margin: 1em 0 }}
td, th {{ border-bottom: 1px solid #ccc; padding: 3px 10px; text-align: right }}
td:first-child, th:first-child {{ text-align: left }}
svg text {{ font: 12px sans-serif }} figure {{ margin: 4px 0 }} img {{ image-rendering: pixelated }}
figcaption {{ font-size: 13px; color: #555 }} pre {{ background: #f4f4f4; padding: 8px; overflow: auto }}
</style></head><body>
<h1>{0}</h1>
{1}</body></html>
)",
                                 escaped(title_), body_));
}

}  // namespace quantsparse::bench
