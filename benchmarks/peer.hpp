// SPDX-License-Identifier: MIT
#pragma once

#include <cstdio>
#include <string>

#include <sys/wait.h>
#include <unistd.h>

/// A program of another framework that answers questions for as long as a benchmark runs, so that both are measured in the
/// same rounds and its start is paid once. It reads a line and prints a line of two numbers: seconds of one call, and a
/// number that shows that both programs compute the same.
class peer {
 public:
  /// `command` runs by the shell; an empty one is no peer.
  explicit peer(std::string const& command) {
    int to[2], from[2];
    if (command.empty() || pipe(to) != 0) return;
    if (pipe(from) != 0) return;
    process_ = fork();
    if (process_ == 0) {
      dup2(to[0], 0);
      dup2(from[1], 1);
      for (int const end : {to[0], to[1], from[0], from[1]}) close(end);
      execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
      _exit(127);
    }
    close(to[0]);
    close(from[1]);
    questions_ = fdopen(to[1], "w");
    answers_ = fdopen(from[0], "r");
  }
  peer(peer const&) = delete;
  peer& operator=(peer const&) = delete;
  ~peer() { stop(); }

  bool runs() const noexcept { return answers_ != nullptr; }

  /// False, and the peer is gone, if it does not answer.
  bool ask(std::string const& question, double& seconds, double& check) {
    if (!runs()) return false;
    bool const asked = std::fprintf(questions_, "%s\n", question.c_str()) > 0 && std::fflush(questions_) == 0;
    if (asked && std::fscanf(answers_, "%lf %lf", &seconds, &check) == 2) return true;
    stop();
    return false;
  }

 private:
  void stop() {
    if (questions_ != nullptr) std::fclose(questions_);
    if (answers_ != nullptr) std::fclose(answers_);
    if (process_ > 0) waitpid(process_, nullptr, 0);
    questions_ = answers_ = nullptr;
    process_ = -1;
  }

  pid_t process_ = -1;
  std::FILE* questions_ = nullptr;
  std::FILE* answers_ = nullptr;
};
