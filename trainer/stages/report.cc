#include "trainer/stages/report.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace vlm::trainer {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kPlotWidth = 560, kPlotHeight = 220, kMargin = 44;
constexpr size_t kPlotPointsMax = 600;  // more than pixels would only make the page heavy

std::string Escape(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
}

std::string CutNote(const KindScore& score) {
  return absl::StrCat(score.cut, " of ", score.total, " answers were cut by the model's context");
}

std::string Percent(double share) { return absl::StrFormat("%.1f %%", 100 * share); }

Json ToJson(const KindScore& score) {
  Json json = {{"total", score.total},
               {"correct", score.correct},
               {"accuracy", score.accuracy},
               {"interval_95", {score.interval.low, score.interval.high}},
               {"majority_answer", score.majority_answer},
               {"majority", score.majority}};
  if (score.blank.has_value()) json["blank_picture"] = *score.blank;
  if (score.blank.has_value()) json["blank_within_margin"] = score.blank_within_margin;
  if (score.target.has_value()) json["target"] = *score.target;
  if (score.target.has_value()) json["target_met"] = score.target_met;
  if (score.cut > 0) json["cut_by_context"] = score.cut;
  return json;
}

Json ToJson(const Answered& answer) {
  return {{"task", answer.task},           {"kind", answer.kind},
          {"question", answer.question},   {"expected", answer.expected},
          {"generated", answer.generated}, {"correct", ExactMatch(answer.expected, answer.generated)}};
}

// One curve as inline SVG: axes with three labels each and a line. Non-finite points are left out.
std::string Plot(const StageCurve& curve) {
  std::vector<CurvePoint> points;
  for (const CurvePoint& point : curve.points) {
    if (std::isfinite(point.loss)) points.push_back(point);
  }
  if (points.empty()) return "<p>No finite loss was recorded.</p>";
  double low = points[0].loss, high = points[0].loss;
  for (const CurvePoint& point : points) {
    low = std::min(low, point.loss);
    high = std::max(high, point.loss);
  }
  if (high - low < 1e-9) high = low + 1e-9;
  const double first = static_cast<double>(points.front().step);
  const double span = std::max(1.0, static_cast<double>(points.back().step) - first);
  auto x = [&](double step) { return kMargin + (step - first) / span * (kPlotWidth - kMargin - 10); };
  auto y = [&](double loss) { return 10 + (high - loss) / (high - low) * (kPlotHeight - kMargin); };
  std::string svg = absl::StrFormat("<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"loss of %s\">", kPlotWidth,
                                    kPlotHeight, Escape(curve.stage));
  for (const double part : {0.0, 0.5, 1.0}) {
    const double loss = low + part * (high - low), step = first + part * span;
    absl::StrAppendFormat(&svg, "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" class=\"grid\"/>", kMargin,
                          kPlotWidth - 10, y(loss), y(loss));
    absl::StrAppendFormat(&svg, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.3g</text>", kMargin - 6, y(loss) + 4,
                          loss);
    absl::StrAppendFormat(&svg, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.0f</text>", x(step),
                          kPlotHeight - 14, step);
  }
  absl::StrAppendFormat(&svg, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">optimizer step</text>", kPlotWidth / 2,
                        kPlotHeight - 1);
  svg += "<polyline points=\"";
  const size_t stride = points.size() / kPlotPointsMax + 1;
  for (size_t i = 0; i < points.size(); i += stride) {
    absl::StrAppendFormat(&svg, "%.1f,%.1f ", x(static_cast<double>(points[i].step)), y(points[i].loss));
  }
  svg += "\"/></svg>";
  return svg;
}

std::string ScoreTable(const TaskScore& score) {
  std::string html = absl::StrCat("<h3>", Escape(score.task), "</h3>");
  for (const std::string& finding : Findings(score)) {
    absl::StrAppend(&html, "<p class=\"bad\">", Escape(finding), "</p>");
  }
  for (const auto& [kind, result] : score.kinds) {
    if (result.cut > 0) absl::StrAppend(&html, "<p>", Escape(kind), ": ", CutNote(result), "</p>");
  }
  absl::StrAppend(&html,
                  "<table><tr><th>question</th><th>asked</th><th>correct</th><th>95 % interval</th>"
                  "<th>target</th><th>blank picture</th><th>majority answer</th></tr>");
  for (const auto& [kind, result] : score.kinds) {
    const char* const color = !result.target.has_value() ? "" : result.target_met ? "good" : "bad";
    const std::string target = result.target.has_value() ? Percent(*result.target) : "–";
    const std::string blank = result.blank.has_value() ? Percent(*result.blank) : "–";
    absl::StrAppendFormat(
        &html,
        "<tr><td>%s</td><td>%d</td><td class=\"%s\">%s</td><td>%s – %s</td><td>%s</td><td class=\"%s\">%s</td>"
        "<td>%s (“%s”)</td></tr>",
        Escape(kind), result.total, color, Percent(result.accuracy), Percent(result.interval.low),
        Percent(result.interval.high), target, result.blank_within_margin ? "" : "bad", blank, Percent(result.majority),
        Escape(result.majority_answer));
  }
  return html + "</table>";
}

std::string PictureCard(const ReportPicture& picture) {
  const Answered& answer = picture.answer;
  const bool correct = ExactMatch(answer.expected, answer.generated);
  return absl::StrCat("<figure><img alt=\"held-out picture\" src=\"data:image/png;base64,",
                      absl::Base64Escape(picture.png), "\"><figcaption>", Escape(answer.question), "<br><b class=\"",
                      correct ? "good" : "bad", "\">", Escape(answer.generated), "</b>",
                      correct ? "" : absl::StrCat(" (true: ", Escape(answer.expected), ")"), "</figcaption></figure>");
}

constexpr char kStyle[] =
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1180px;margin:2rem auto;padding:0 1rem;color:#1c2330}"
    "h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem;border-bottom:1px solid #d9dee7}"
    "table{border-collapse:collapse}th,td{padding:.3rem .8rem;border-bottom:1px solid #e4e8ef;text-align:left}"
    ".good{color:#17703a;font-weight:600}.bad{color:#b3261e;font-weight:600}"
    ".row{display:flex;flex-wrap:wrap;gap:1.2rem}.row>div{flex:1 1 340px;max-width:540px}"
    "svg{width:100%;height:auto;overflow:visible}svg text{font-size:11px;fill:#5a6473}.grid{stroke:#e4e8ef}"
    "polyline{fill:none;stroke:#2457c5;stroke-width:1.6}"
    "figure{margin:0;width:132px}figure img{width:132px;height:132px;image-rendering:pixelated;border-radius:6px}"
    "figcaption{font-size:13px}";

}  // namespace

bool Report::passed() const {
  return std::all_of(scores.begin(), scores.end(), [](const TaskScore& score) { return score.passed(); });
}

std::vector<CurvePoint> ParseCurve(const std::string& jsonl) {
  std::vector<CurvePoint> points;
  for (size_t at = 0; at < jsonl.size();) {
    const size_t end = std::min(jsonl.find('\n', at), jsonl.size());
    const Json json = Json::parse(jsonl.substr(at, end - at), nullptr, /*allow_exceptions=*/false);
    // A loss that is not finite stands as null.
    if (json.is_object() && json.contains("step") && json["step"].is_number_unsigned()) {
      auto number = [&](const char* key) {
        return json.contains(key) && json[key].is_number() ? json[key].get<double>() : std::nan("");
      };
      points.push_back(
          {json["step"].get<uint64_t>(), number("loss"), number("learning_rate"), number("gradient_norm")});
    }
    at = end + 1;
  }
  return points;
}

std::string ReportJson(const Report& report) {
  Json json = {{"format", "vlm-report"},       {"version", 1},
               {"job", report.job_id},         {"stage", report.stage},
               {"model", report.model_digest}, {"passed", report.passed()},
               {"findings", Json::array()},    {"tasks", Json::object()},
               {"curves", Json::array()},      {"pictures", Json::array()}};
  for (const TaskScore& score : report.scores) {
    for (const std::string& finding : Findings(score)) json["findings"].push_back(finding);
    for (const auto& [kind, result] : score.kinds) json["tasks"][score.task][kind] = ToJson(result);
  }
  for (const StageCurve& curve : report.curves) {
    Json points = Json::array();
    for (const CurvePoint& point : curve.points)
      points.push_back({point.step, point.loss, point.learning_rate, point.gradient_norm});
    json["curves"].push_back({{"stage", curve.stage},
                              {"kind", curve.kind},
                              {"columns", {"step", "loss", "learning_rate", "gradient_norm"}},
                              {"points", points}});
  }
  for (const ReportPicture& picture : report.pictures) {
    Json entry = ToJson(picture.answer);
    entry["file"] = picture.file;
    json["pictures"].push_back(std::move(entry));
  }
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string ReportHtml(const Report& report) {
  std::string html = absl::StrCat(
      "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width\"><title>",
      Escape(report.job_id), "</title><style>", kStyle, "</style><h1>Report of job ", Escape(report.job_id),
      "</h1><p>Stage ", Escape(report.stage), ", model ", Escape(report.model_digest.substr(0, 12)), ": <span class=\"",
      report.passed() ? "good\">every target is met" : "bad\">a target is missed",
      "</span></p><h2>Accuracy</h2><p>Exact match of greedy answers, with Wilson's 95 % "
      "interval. The blank-picture column asks the same questions without the picture.</p>");
  for (const TaskScore& score : report.scores) html += ScoreTable(score);
  html += "<h2>Training loss</h2><div class=\"row\">";
  for (const StageCurve& curve : report.curves) {
    absl::StrAppend(&html, "<div><h3>", Escape(curve.stage), " (", Escape(curve.kind), ")</h3>", Plot(curve), "</div>");
  }
  html += "</div><h2>Pictures</h2><div class=\"row\">";
  for (const ReportPicture& picture : report.pictures) html += PictureCard(picture);
  return html + "</div></html>\n";
}

std::string ReportText(const Report& report) {
  std::string text = absl::StrFormat("%-10s %-10s %6s %9s %17s %8s %9s %9s\n", "task", "question", "asked", "correct",
                                     "95 % interval", "target", "blank", "majority");
  for (const TaskScore& score : report.scores) {
    for (const auto& [kind, result] : score.kinds) {
      absl::StrAppendFormat(&text, "%-10s %-10s %6d %9s %8s–%8s %8s %9s %9s%s\n", score.task, kind, result.total,
                            Percent(result.accuracy), Percent(result.interval.low), Percent(result.interval.high),
                            result.target.has_value() ? Percent(*result.target) : "-",
                            result.blank.has_value() ? Percent(*result.blank) : "-", Percent(result.majority),
                            !result.target_met            ? "  MISSED"
                            : !result.blank_within_margin ? "  CONTROL OUT OF MARGIN"
                                                          : "");
      if (result.cut > 0) absl::StrAppend(&text, "  ", CutNote(result), "\n");
    }
    for (const std::string& finding : Findings(score)) absl::StrAppend(&text, finding, "\n");
  }
  return text;
}

}  // namespace vlm::trainer
