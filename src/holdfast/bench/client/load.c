/* The bench's load client: HTTP/1.1 over keep-alive connections, one thread, epoll, nothing but libc. Run by load.py.
 *
 * It shares its cores with the server that it measures, so a request costs it little more than one send and one recv.
 * Closed loop: each connection asks again when its answer has come. Open loop (--rate): request i is due at
 * start + i/rate whatever the server does, and its latency counts from then, so that a stall is felt by every request
 * that was due in it. Every request leaves exactly one line in the log, with what became of it:
 *
 *     stage  status  latency_us  at_us  line_index  id
 *
 * A status below 1 is no answer: 0 never sent, -1 the connection broke or could not be made, -2 timed out; what has -1
 * or -2 may or may not have been done. Stage 1 is the request of --then, which follows each 2xx answer. In a template
 * @1@ to @9@ are fields of the request's line, @n@ is its number, @id@ (--then) the answer's id, and @length@ the
 * length of its body. The totals go to stdout as one JSON object, and what there is of them to stderr once a second.
 * What cannot go on says so in one sentence on stderr and ends with exit status 2.
 */

#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "load_input.h"

#define SECOND 1000000000LL
#define MILLISECOND 1000000LL
#define REST (SECOND / 10) /* a closed-loop connection that broke rests so long, or it would fill the log */

enum {
    UNSENT = 0, BROKEN = -1, TIMED_OUT = -2, /* in place of a status */
    KEPT_MAX = 8192, HEAD_MAX = 4096, ID_MAX = 64, /* of an answer: its head, and enough of its body for the id */
    EVENTS_MAX = 256, LOG_BUFFER = 1 << 18, LATE_MAX_US = 1 << 20,
    TICK_MS = 10, /* how often time-outs are looked for */
};

typedef enum { CLOSED, OPENING, OPEN } State;

typedef struct Connection {
    struct Connection *next, *previous; /* among the idle ones or the closed ones; open loop only */
    State state;
    int fd;
    uint32_t generation; /* an event for an earlier socket of this connection is not for this one */
    bool watches_out;    /* whether the socket is watched for room to write, as it is while it opens */
    bool asking;         /* a request is under way */
    int stage;
    int64_t number; /* which request */
    int64_t from;   /* its latency counts from here: when it was due, or in the closed loop when it began */
    int64_t begun;  /* its time-out counts from here; after an outage: when the connection may begin again */
    Text out;
    size_t out_sent;
    char kept[KEPT_MAX];
    size_t kept_length, head_length; /* 0 until the head is there; before that `searched` has no end of it */
    size_t searched;
    int status;
    int64_t body_left;
    bool close_after;
    char id[ID_MAX + 1];
} Connection;

typedef struct { Connection *first, *last; } List;

static Connection *connections;
static List idle, closed;
static struct sockaddr_storage address;
static socklen_t address_length;
static int poll_fd, timer_fd, log_fd;

static int64_t now, start, end, drained_by;
static int64_t next_number, number_max; /* the next request, and the first that is not asked any more */
static bool may_run_out;                /* lines or --count may end the run before its time */
static bool starved;                    /* a request is due and every connection is taken */
static int64_t free_since;              /* since when there has been a free connection again */

static Text outcomes; /* of the log, not yet written */
static int64_t under_way, opened, sent, broken, timed_out, unsent, last_outcome;
static int64_t in_window[2][1000];
static int64_t late_counts[LATE_MAX_US], late_max; /* by microseconds */
static double cpu_before;

static void prepare(void), open_first(Connection *), drive(void), log_the_rest(void), report(FILE *to);
static void arm_timer(void), on_event(Connection *, uint32_t flags), on_tick(void);
static void send_due(void), note_late(int64_t), release(Connection *), push(List *, Connection *);
static void take_out(List *, Connection *);
static void ask(Connection *, int stage, int64_t number, int64_t from), render(Text *, const Template *, Connection *);
static void make_socket(Connection *), open_socket(Connection *), close_socket(Connection *), send_rest(Connection *);
static int socket_error(int fd);
static void receive(Connection *), answered(Connection *), failed(Connection *, int status), drop_idle(Connection *);
static bool read_head(Connection *), read_headers(Connection *);
static void find_id(Connection *), log_outcome(Connection *, int status), flush_log(void);
static int64_t clock_ns(void);
static double cpu_seconds(void);

int main(int count, char **arguments)
{
    read_input(count, arguments);
    prepare();
    cpu_before = cpu_seconds();
    start = now = clock_ns();
    end = start + (int64_t)(seconds * SECOND);
    drained_by = end + (int64_t)(drain_seconds * SECOND);
    drive();
    log_the_rest();
    report(stdout);
    return 0;
}

/* ---- The loop ---- */

static int64_t due(int64_t number)
{
    return start + (int64_t)((double)number * (double)SECOND / rate);
}

/* The closed loop ends with its window; the open loop owes every request that was due in it. */
static bool may_ask(void)
{
    return next_number < number_max && (rate > 0 || now < end);
}

static void drive(void)
{
    struct epoll_event events[EVENTS_MAX];
    int64_t next_tick = start + TICK_MS * MILLISECOND;
    for (int i = 0; rate <= 0 && i < connection_count && may_ask(); i++, now = clock_ns())
        ask(&connections[i], 0, next_number++, now);
    while ((may_ask() || under_way > 0) && now < drained_by) {
        arm_timer();
        int count = epoll_wait(poll_fd, events, EVENTS_MAX, TICK_MS);
        if (count < 0 && errno != EINTR)
            stop("epoll_wait failed: %s.", strerror(errno));
        now = clock_ns();
        for (int i = 0; i < count; i++) {
            Connection *connection = &connections[(uint32_t)events[i].data.u64];
            if (events[i].data.u64 != UINT64_MAX && connection->generation == events[i].data.u64 >> 32)
                on_event(connection, events[i].events);
            send_due(); /* what comes due while a long batch of answers is read shall not be late */
        }
        send_due();
        if (now >= next_tick) {
            /* It wakes once in a tick at least: what is beyond that is time in which the machine did not let it run. */
            int64_t stood_still = (now - next_tick) / 1000 - TICK_MS * 1000;
            late_max = stood_still > late_max ? stood_still : late_max;
            on_tick();
            next_tick = now + TICK_MS * MILLISECOND;
        }
    }
}

/* An absolute timer, because epoll_wait counts in milliseconds. Set only when the next due time has changed. */
static void arm_timer(void)
{
    static int64_t armed_for;
    if (rate <= 0 || starved || next_number >= number_max || armed_for == due(next_number))
        return;
    armed_for = due(next_number);
    struct itimerspec at = {.it_value = {.tv_sec = armed_for / SECOND, .tv_nsec = armed_for % SECOND}};
    timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
}

static void on_event(Connection *connection, uint32_t flags)
{
    if (connection->state == OPENING && socket_error(connection->fd) != 0) {
        failed(connection, BROKEN);
        return;
    }
    connection->state = OPEN;
    if (flags & EPOLLOUT)
        send_rest(connection);
    if (connection->state == OPEN && flags & ~(uint32_t)EPOLLOUT)
        receive(connection);
}

/* Looks for time-outs, lets closed-loop connections that broke begin again, and shows how far it is. */
static void on_tick(void)
{
    static int64_t seconds_shown;
    for (int i = 0; i < connection_count; i++) {
        Connection *connection = &connections[i];
        if (connection->asking && now - connection->begun > (int64_t)(timeout_seconds * SECOND))
            failed(connection, TIMED_OUT);
        else if (rate <= 0 && !connection->asking && now >= connection->begun && may_ask())
            ask(connection, 0, next_number++, now);
    }
    if ((now - start) / SECOND > seconds_shown) {
        seconds_shown = (now - start) / SECOND;
        report(stderr);
    }
}

/* ---- The open loop ---- */

/* Sends all that is due, each to the connection that has been idle longest: that spreads them over the server's
 * processes. A request that finds none free waits; how late the client itself is counts from when there was one. */
static void send_due(void)
{
    if (rate <= 0)
        return;
    now = clock_ns();
    while (next_number < number_max && due(next_number) <= now) {
        List *from = idle.first ? &idle : &closed;
        Connection *connection = from->first;
        starved = connection == NULL;
        if (starved)
            return;
        take_out(from, connection);
        int64_t intended = due(next_number);
        note_late((now - (intended > free_since ? intended : free_since)) / 1000);
        ask(connection, 0, next_number++, intended);
        now = clock_ns();
    }
}

static void note_late(int64_t microseconds)
{
    late_counts[microseconds < LATE_MAX_US ? microseconds : LATE_MAX_US - 1]++;
    late_max = microseconds > late_max ? microseconds : late_max;
}

/* The connection has no request any more: the next one is its own (closed loop) or whatever is due (open loop). */
static void release(Connection *connection)
{
    if (rate <= 0) {
        if (connection->begun <= now && may_ask())
            ask(connection, 0, next_number++, now);
        return;
    }
    if (starved)
        free_since = now;
    starved = false;
    push(connection->state == CLOSED ? &closed : &idle, connection);
}

static void push(List *list, Connection *connection)
{
    connection->previous = list->last;
    connection->next = NULL;
    *(list->last ? &list->last->next : &list->first) = connection;
    list->last = connection;
}

static void take_out(List *list, Connection *connection)
{
    *(connection->previous ? &connection->previous->next : &list->first) = connection->next;
    *(connection->next ? &connection->next->previous : &list->last) = connection->previous;
}

/* ---- The request ---- */

static void ask(Connection *connection, int stage, int64_t number, int64_t from)
{
    connection->asking = true;
    connection->stage = stage;
    connection->number = number;
    connection->from = from;
    connection->begun = now;
    connection->out.length = connection->out_sent = 0;
    connection->kept_length = connection->head_length = connection->searched = 0;
    connection->close_after = false;
    under_way++;
    render(&connection->out, stage == 0 ? &templates[number % template_count] : &follow_up, connection);
    if (connection->state == CLOSED)
        open_socket(connection);
    else
        send_rest(connection);
}

static void render(Text *out, const Template *template, Connection *connection)
{
    Slice values[128]; /* by placeholder; only those that the template has are set */
    char number[24], body_length[24];
    values[0] = values['l'] = (Slice){"", 0};
    values['n'] = (Slice){number, (size_t)sprintf(number, "%lld", (long long)connection->number)};
    values['i'] = (Slice){connection->id, strlen(connection->id)};
    if (template->fields > 0) {
        int64_t line = connection->number % line_count;
        const char *at = lines.data + line_starts[line], *line_end = lines.data + line_starts[line + 1] - 1;
        for (int i = 1; i <= template->fields; i++) {
            const char *tab = memchr(at, '\t', (size_t)(line_end - at));
            values['0' + i] = (Slice){at, (size_t)((tab ? tab : line_end) - at)};
            at = tab ? tab + 1 : line_end;
        }
    }
    size_t length = 0;
    for (size_t i = template->body; i < template->count; i++)
        length += template->pieces[i].literal.length + values[template->pieces[i].placeholder].length;
    values['l'] = (Slice){body_length, (size_t)sprintf(body_length, "%zu", length)};
    for (size_t i = 0; i < template->count; i++) {
        const Piece *piece = &template->pieces[i];
        append(out, piece->literal.text, piece->literal.length);
        append(out, values[piece->placeholder].text, values[piece->placeholder].length);
    }
}

static void send_rest(Connection *connection)
{
    while (connection->out_sent < connection->out.length) {
        const char *rest = connection->out.data + connection->out_sent;
        ssize_t count = send(connection->fd, rest, connection->out.length - connection->out_sent, MSG_NOSIGNAL);
        if (count >= 0)
            connection->out_sent += (size_t)count;
        else if (errno == EAGAIN)
            break;
        else if (errno != EINTR) {
            failed(connection, BROKEN);
            return;
        }
    }
    bool has_rest = connection->out_sent < connection->out.length;
    if (has_rest == connection->watches_out)
        return;
    connection->watches_out = has_rest;
    struct epoll_event event = {.events = has_rest ? EPOLLIN | EPOLLOUT : EPOLLIN};
    event.data.u64 = (uint64_t)connection->generation << 32 | (uint64_t)(connection - connections);
    epoll_ctl(poll_fd, EPOLL_CTL_MOD, connection->fd, &event);
}

/* ---- The connection ---- */

static void open_socket(Connection *connection)
{
    make_socket(connection);
    if (connect(connection->fd, (struct sockaddr *)&address, address_length) < 0 && errno != EINPROGRESS)
        failed(connection, BROKEN);
}

static void make_socket(Connection *connection)
{
    int on = 1, fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        stop("No more sockets can be had (%s): ask for fewer connections or raise `ulimit -n`.", strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT};
    event.data.u64 = (uint64_t)++connection->generation << 32 | (uint64_t)(connection - connections);
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
        stop("A connection cannot be watched: %s.", strerror(errno));
    connection->fd = fd;
    connection->state = OPENING;
    connection->watches_out = true;
    opened++;
}

static int socket_error(int fd)
{
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
    return error;
}

static void close_socket(Connection *connection)
{
    close(connection->fd);
    connection->state = CLOSED;
    connection->generation++;
}

/* Nothing was asked: the server has closed the connection, or says what belongs to no request. */
static void drop_idle(Connection *connection)
{
    close_socket(connection);
    if (rate > 0) {
        take_out(&idle, connection);
        push(&closed, connection);
    }
}

/* ---- The answer ---- */

static void receive(Connection *connection)
{
    static char unkept[1 << 16];
    for (;;) {
        bool keeps = connection->kept_length < KEPT_MAX;
        size_t room = keeps ? KEPT_MAX - connection->kept_length : sizeof unkept;
        ssize_t count = recv(connection->fd, keeps ? connection->kept + connection->kept_length : unkept, room, 0);
        now = clock_ns();
        if (count < 0 && (errno == EAGAIN || errno == EINTR))
            return; /* the socket is watched by level: it is told again */
        if (!connection->asking) {
            drop_idle(connection);
            return;
        }
        if (count <= 0) {
            failed(connection, BROKEN);
            return;
        }
        connection->kept_length += keeps ? (size_t)count : 0;
        if (connection->head_length > 0)
            connection->body_left -= count;
        else if (!read_head(connection)) {
            failed(connection, BROKEN);
            return;
        }
        if (connection->head_length > 0 && connection->body_left <= 0) {
            answered(connection);
            return;
        }
        if ((size_t)count < room)
            return;
    }
}

/* Looks for the end of the head in what has come so far, and reads the head when it is there. False when this is not
 * the beginning of an answer. */
static bool read_head(Connection *connection)
{
    char *kept = connection->kept;
    size_t length = connection->kept_length;
    if (memcmp(kept, "HTTP/1.", length < 7 ? length : 7) != 0)
        return false;
    char *found = memmem(kept + connection->searched, length - connection->searched, "\r\n\r\n", 4);
    if (found == NULL) {
        connection->searched = length < 3 ? 0 : length - 3;
        return length < HEAD_MAX;
    }
    connection->head_length = (size_t)(found - kept) + 4;
    if (found - kept < 12 || !isdigit((unsigned char)kept[9]) || !isdigit((unsigned char)kept[10])
        || !isdigit((unsigned char)kept[11]))
        return false;
    connection->status = (kept[9] - '0') * 100 + (kept[10] - '0') * 10 + kept[11] - '0';
    connection->close_after = kept[7] == '0'; /* HTTP/1.0 */
    return connection->status >= 200 && read_headers(connection);
}

/* The value of a header if it is the named one, else NULL. It ends with CRLF. */
static const char *value_of(const char *line, const char *name)
{
    size_t length = strlen(name);
    if (strncasecmp(line, name, length) != 0 || line[length] != ':')
        return NULL;
    return line + length + 1 + strspn(line + length + 1, " \t");
}

/* Reads the headers that say where the answer ends, and whether the connection does. */
static bool read_headers(Connection *connection)
{
    const char *head_end = connection->kept + connection->head_length - 2, *line = connection->kept, *value;
    int64_t length = connection->status == 204 || connection->status == 304 ? 0 : -1;
    while ((line = (const char *)memchr(line, '\n', (size_t)(head_end - line)) + 1) < head_end) {
        if ((value = value_of(line, "Connection")) != NULL) {
            for (; *value != '\r'; value++)
                connection->close_after |= strncasecmp(value, "close", 5) == 0;
        } else if (length != 0 && (value = value_of(line, "Content-Length")) != NULL) {
            char *after;
            errno = 0;
            length = strtoll(value, &after, 10);
            if (!isdigit((unsigned char)*value) || errno != 0 || (*after != '\r' && *after != ' '))
                return false;
        }
    }
    if (length < 0)
        stop("The server answered %d without Content-Length, and this client reads no other kind.", connection->status);
    connection->body_left = length - (int64_t)(connection->kept_length - connection->head_length);
    return true;
}

static void answered(Connection *connection)
{
    int stage = connection->stage, status = connection->status;
    bool is_success = status >= 200 && status < 300;
    connection->id[0] = '\0';
    if (is_success)
        find_id(connection);
    /* What has come beyond the answer belongs to no request, and what has not gone out is not wanted any more. */
    if (connection->close_after || connection->body_left < 0 || connection->out_sent < connection->out.length)
        close_socket(connection);
    connection->asking = false;
    under_way--;
    in_window[stage][status] += now <= end;
    log_outcome(connection, status);
    if (is_success && stage == 0 && then_file != NULL) {
        if (connection->id[0] != '\0' || !follow_up.needs_id) {
            ask(connection, 1, connection->number, now);
            return;
        }
        connection->stage = 1;
        connection->from = now;
        log_outcome(connection, UNSENT);
    }
    release(connection);
}

static void failed(Connection *connection, int status)
{
    close_socket(connection);
    connection->asking = false;
    connection->begun = now + REST;
    connection->id[0] = '\0';
    under_way--;
    log_outcome(connection, status);
    release(connection);
}

/* The first "id":"…" of what is kept of the body, or "" where none could stand in the log and in a path. */
static void find_id(Connection *connection)
{
    const char *at = connection->kept + connection->head_length, *kept_end = connection->kept + connection->kept_length;
    while ((at = memmem(at, (size_t)(kept_end - at), "\"id\"", 4)) != NULL) {
        at += 4;
        while (at < kept_end && (*at == ' ' || *at == ':'))
            at++;
        if (at == kept_end || *at++ != '"')
            continue;
        size_t length = 0;
        while (at + length < kept_end && (isalnum((unsigned char)at[length]) || at[length] == '_' || at[length] == '-'))
            length++;
        if (length <= ID_MAX && at + length < kept_end && at[length] == '"') {
            memcpy(connection->id, at, length);
            connection->id[length] = '\0';
        }
        return;
    }
}

/* ---- What is written down ---- */

static void log_outcome(Connection *connection, int status)
{
    sent += status != UNSENT;
    unsent += status == UNSENT;
    broken += status == BROKEN;
    timed_out += status == TIMED_OUT;
    last_outcome = now;
    append_number(&outcomes, connection->stage, '\t');
    append_number(&outcomes, status, '\t');
    append_number(&outcomes, (now - connection->from) / 1000, '\t');
    append_number(&outcomes, (connection->from - start) / 1000, '\t');
    append_number(&outcomes, line_count > 0 ? connection->number % line_count : 0, '\t');
    append(&outcomes, connection->id, strlen(connection->id));
    append(&outcomes, connection->id[0] != '\0' ? "\n" : "-\n", connection->id[0] != '\0' ? 1 : 2);
    if (outcomes.length > LOG_BUFFER)
        flush_log();
}

static void flush_log(void)
{
    for (size_t done = 0; done < outcomes.length;) {
        ssize_t count = write(log_fd, outcomes.data + done, outcomes.length - done);
        if (count < 0 && errno != EINTR)
            stop("The log %s cannot be written: %s.", log_file, strerror(errno));
        done += count > 0 ? (size_t)count : 0;
    }
    outcomes.length = 0;
}

/* After the drain: what is still under way has timed out, and what still waits for a connection was never sent. */
static void log_the_rest(void)
{
    for (int i = 0; i < connection_count; i++)
        if (connections[i].asking) {
            connections[i].id[0] = '\0';
            log_outcome(&connections[i], TIMED_OUT);
        }
    Connection never = {0};
    for (; rate > 0 && next_number < number_max; next_number++) {
        never.number = next_number;
        never.from = due(next_number);
        log_outcome(&never, UNSENT);
    }
    flush_log();
    if (close(log_fd) < 0)
        stop("The log %s cannot be written: %s.", log_file, strerror(errno));
}

static int64_t late_p99(void)
{
    int64_t all = 0, found = 0, microseconds = 0;
    for (int i = 0; i <= late_max && i < LATE_MAX_US; i++)
        all += late_counts[i];
    while ((found += late_counts[microseconds]) * 100 < all * 99)
        microseconds++;
    return microseconds;
}

static void report(FILE *to)
{
    bool is_final = to == stdout;
    /* Where the requests ran out before the time, the window ends with the last answer. */
    bool ran_out = may_run_out && next_number >= number_max && last_outcome < end;
    double window = (double)((is_final ? ran_out ? last_outcome : end : now) - start) / SECOND;
    fprintf(to, "{\"seconds\": %.6f, \"sent\": %lld, \"answered\": %lld, \"in_window\": {", window, (long long)sent,
            (long long)(sent - broken - timed_out));
    const char *comma = "";
    for (int i = 0; i < 2000; i++)
        if (in_window[i / 1000][i % 1000] > 0) {
            fprintf(to, "%s\"%d:%d\": %lld", comma, i / 1000, i % 1000, (long long)in_window[i / 1000][i % 1000]);
            comma = ", ";
        }
    fprintf(to, "}, \"broken\": %lld, \"timed_out\": %lld, \"unsent\": %lld, ", (long long)broken, (long long)timed_out,
            (long long)unsent);
    fprintf(to, "\"late_p99_us\": %lld, \"late_max_us\": %lld, \"connections\": %lld, \"cpu_seconds\": %.6f}\n",
            (long long)late_p99(), (long long)late_max, (long long)opened, cpu_seconds() - cpu_before);
}

/* ---- The beginning ---- */

/* Opens the log, and the connections: all of them in the closed loop, one in the open loop, which opens the others
 * when it needs them. The clock starts afterwards. */
static void prepare(void)
{
    int64_t owed = rate > 0 ? (int64_t)(rate * seconds + 0.999999) : INT64_MAX;
    number_max = uses_lines_once ? line_count : INT64_MAX;
    if (count_max > 0 && count_max < (double)number_max)
        number_max = (int64_t)count_max;
    may_run_out = number_max < owed;
    number_max = may_run_out ? number_max : owed;

    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    prctl(PR_SET_TIMERSLACK, 1);
    log_fd = open(log_file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (log_fd < 0)
        stop("The log %s cannot be written: %s.", log_file, strerror(errno));
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    if (getaddrinfo(host, port, &hints, &found) != 0)
        stop("%s port %s is no address.", host, port);
    memcpy(&address, found->ai_addr, found->ai_addrlen);
    address_length = found->ai_addrlen;
    freeaddrinfo(found);

    connections = resize(NULL, (size_t)connection_count * sizeof *connections);
    memset(connections, 0, (size_t)connection_count * sizeof *connections);
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = UINT64_MAX};
    if (poll_fd < 0 || timer_fd < 0 || epoll_ctl(poll_fd, EPOLL_CTL_ADD, timer_fd, &event) < 0)
        stop("The load client cannot start: %s.", strerror(errno));
    for (int i = 0; i < connection_count; i++) {
        if (rate <= 0 || i == 0)
            open_first(&connections[i]);
        push(connections[i].state == OPEN ? &idle : &closed, &connections[i]);
    }
}

static void open_first(Connection *connection)
{
    make_socket(connection);
    int error = connect(connection->fd, (struct sockaddr *)&address, address_length) < 0 ? errno : 0;
    if (error == EINPROGRESS) {
        struct pollfd opens = {.fd = connection->fd, .events = POLLOUT};
        error = poll(&opens, 1, (int)(timeout_seconds * 1000)) == 1 ? socket_error(connection->fd) : ETIMEDOUT;
    }
    if (error != 0)
        stop("No connection to %s port %s (%s): is the server there?", host, port, strerror(error));
    connection->state = OPEN;
    send_rest(connection); /* there is nothing to send, so it is no longer watched for room */
}

static double cpu_seconds(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec)
        + (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static int64_t clock_ns(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * SECOND + at.tv_nsec;
}
