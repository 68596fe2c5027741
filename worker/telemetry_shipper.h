// Keeps what ranks print and measure, and ships it to the coordinator on credit.
#ifndef VLM_WORKER_TELEMETRY_SHIPPER_H_
#define VLM_WORKER_TELEMETRY_SHIPPER_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/random.h"
#include "base/stoppable_executor.h"
#include "rpc/channel.h"
#include "vlm/v1/worker.pb.h"
#include "worker/core/worker.h"
#include "worker/persistent_stream.h"
#include "worker/rank_log.h"
#include "worker/worker_metrics.h"

namespace vlm::worker {

// Logs go through files (RankLog) and are sent again from the last acknowledged offset after a reconnect. Points
// are held in memory, at most kPointsMax, until the coordinator grants credit for the message they went with; after a
// reconnect those without are sent again (a point is stored by stage, series and step: twice is once). When full,
// every second unsent point of the fullest rank is dropped and counted; points die with the worker's process. Has a
// connection and a thread of its own, so that a flood never delays a beat. Thread-safe.
class TelemetryShipper {
 public:
  static constexpr size_t kPointsMax = 100'000;
  static constexpr size_t kMessageBytesMax = 64 << 10;
  // Credit above it is not counted: far more than a coordinator takes unhandled.
  static constexpr uint64_t kCreditBytesMax = 64u << 20;
  // Output waiting for the log's thread; beyond that it is dropped and the log says so.
  static constexpr uint64_t kPendingBytesMax = 16u << 20;
  // Logs of ended ranks that wait to be shipped; beyond that the oldest goes.
  static constexpr size_t kEndedMax = 64;

  struct Parts {
    rpc::Channel* channel;  // of its own, see above
    std::string node_id;
    std::string log_root;
    WorkerMetrics* metrics;
    RngKey jitter;
    std::function<void(std::string)> note;  // for the worker's log
  };
  // Without an executor on a thread of its own.
  explicit TelemetryShipper(Parts parts, std::unique_ptr<Executor> executor = nullptr);
  ~TelemetryShipper();
  TelemetryShipper(const TelemetryShipper&) = delete;
  TelemetryShipper& operator=(const TelemetryShipper&) = delete;

  // Finds logs of earlier incarnations and opens the connection.
  void Start();
  // Credit that Welcome grants once per connection, before the service grants more.
  void SetCredit(uint64_t bytes);
  void Begin(const RankKey& key, const RankLabels& labels);
  void Output(const RankKey& key, std::string bytes);
  void Points(const RankKey& key, v1::MetricBatch batch);
  void End(const RankKey& key);

 private:
  struct Rank {
    RankLabels labels;
    std::string folder;
    std::unique_ptr<RankLog> log;  // null when its disk failed; then nothing is kept
    uint64_t sent = 0;             // offset
    uint64_t acknowledged = 0;
    uint64_t number = 0;                 // of its entry in ranks_, never used twice
    std::deque<v1::MetricPoint> points;  // the first `points_sent` are under way
    size_t points_sent = 0;
    uint64_t points_dropped = 0;  // not yet told
    uint64_t dropped_sent = 0;    // told, under way
    bool ended = false;
    uint64_t ended_order = 0;
  };
  // A message without credit so far. Credit comes in the order of messages.
  struct UnderWay {
    std::string folder_name;
    uint64_t number = 0;  // Rank::number
    uint64_t bytes = 0;
    size_t points = 0;  // none for a log
    uint64_t dropped = 0;
  };
  void DoStart();
  void DoBegin(const RankKey& key, const RankLabels& labels);
  void DoOutput(const RankKey& key, const std::string& bytes);
  void DoPoints(const RankKey& key, v1::MetricBatch batch);
  void OnOpened();
  void OnResponse(const std::string& bytes);
  void Thin();
  void Pump();
  bool SendPoints(const std::string& folder_name, Rank* rank);
  bool SendLog(const std::string& folder_name, Rank* rank);
  Rank& MakeRank(const std::string& folder_name);
  bool SendRequest(const v1::ShipTelemetryRequest& request, UnderWay message);
  void SettleUnderWay(uint64_t credit_bytes);
  void Forget(std::map<std::string, Rank>::iterator rank);
  void DropFinished();
  std::string FolderOf(const RankKey& key) const;

  const Parts parts_;
  std::atomic<uint64_t> pending_bytes_ = 0;
  std::atomic<uint64_t> overflow_bytes_ = 0;
  // The rest is of the executor.
  uint64_t first_credit_ = 0;
  uint64_t credit_ = 0;
  uint64_t settled_bytes_ = 0;      // credit granted for the first message under way, short of its size
  std::deque<UnderWay> under_way_;  // of this connection; bounded by the credit
  size_t points_ = 0;
  uint64_t ended_ = 0;
  uint64_t numbers_ = 0;
  std::map<std::string, Rank> ranks_;  // by folder name
  std::unique_ptr<PersistentStream> stream_;
  const std::shared_ptr<StoppableExecutor> executor_;
};

}  // namespace vlm::worker

#endif  // VLM_WORKER_TELEMETRY_SHIPPER_H_
