// Verbs about jobs.
#ifndef VLM_CLI_JOB_VERBS_H_
#define VLM_CLI_JOB_VERBS_H_

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "cli/context.h"

namespace vlm::cli {

struct SubmitArguments {
  std::string file;
  std::vector<std::string> overrides;  // --set path=value
  bool follow = false;
  bool validate_only = false;
  bool quiet = false;      // the job's id alone
  std::string id_file;     // where the id is written too; empty: nowhere
  std::string request_id;  // the same for the same submit, whoever repeats it; empty: one of this call
};

VerbResult Submit(const Context& context, const SubmitArguments& arguments);
VerbResult ListJobs(const Context& context);
VerbResult GetJob(const Context& context, const std::string& job);
VerbResult DescribeJob(const Context& context, const std::string& job);
VerbResult WaitForJob(const Context& context, const std::string& job, absl::Duration timeout);
VerbResult CancelJob(const Context& context, const std::string& job, const std::string& note);
VerbResult RetryJob(const Context& context, const std::string& job, const std::string& note);
VerbResult ListNodes(const Context& context);

}  // namespace vlm::cli

#endif  // VLM_CLI_JOB_VERBS_H_
