/* The failover protocol without clocks: promises, the Lease's compare-and-swap, voters, timelines, streams.
 *
 * A set of guarded atomic actions per member; Spin tries every order of them. Between any two a member may crash, an
 * agent may restart, an answer may be lost, a write to the API server may land late, and a deposed primary may go on
 * for ever. What clocks add (readers) is reads.pml, what ends in time is liveness.pml. docs/model.md says what is left
 * out. Letters with a number (S5, I3) are rules of docs/protocol.md and the scenarios behind them.
 *
 * Bounds and parts come from the command line (model/configurations.py); M_… switches a mutant on.
 */

#ifndef N
#define N 3
#endif
#ifndef K0
#define K0 1		/* k at the start */
#endif
#ifndef WRITES
#define WRITES 2	/* clients' commits, at most 3 */
#endif
#ifndef EPOCHS
#define EPOCHS 3	/* the highest number that is promised or swapped */
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef CHANGES
#define CHANGES 0	/* voter changes begun */
#endif
#ifndef LATE
#define LATE 0		/* Lease writes whose answer is lost, and that land late or never */
#endif
#ifndef LOSSES
#define LOSSES 0	/* volumes of non-holders lost; each comes back as a new incarnation */
#endif
#ifndef SWITCHES
#define SWITCHES 0	/* switchovers */
#endif
#ifndef ROLLBACKS
#define ROLLBACKS 0	/* the API server's store is restored from before the first failover */
#endif
#ifndef DEATHS
#define DEATHS 0	/* crashes of them after which the member stays away */
#endif
#ifndef KMAX
#define KMAX 1
#endif

#if LOSSES > 0
#define INCS 2
#else
#define INCS 1
#endif
#define NM (N * INCS)	/* a voter is a bit: instance + N * incarnation (S1) */

/* --- the Lease ---------------------------------------------------------------------------------------------------- */
byte l_epoch = 1;
byte l_holder = 0;	/* bit number of a member */
short l_rule;		/* voters | k << NM; 0: mode alone */
byte top = 1;		/* the highest epoch ever swapped: a Lease below it was restored, and names nobody (L7) */
byte l_claim = 1;	/* the highest timeline number ever claimed */
byte l_heir = 0;	/* bit number + 1 */
byte l_clean = 0;	/* length of the log with the shutdown record */

/* --- what a member has on its disk -------------------------------------------------------------------------------- */
#define DOWN 0		/* PGDATA of a standby */
#define DOWNP 1		/* PGDATA of a primary */
#define STANDBY 2
#define PRIMARY 3
#define BUSY 4		/* rewound or cloned, and not consistent yet */
byte st[N];
byte inc[N];
byte prom[N];		/* highest promise (I3) */
byte vE[N];		/* epoch of the newest Lease that it saw, and the rule in it */
short kr[N];
int L[N];		/* the WAL: five bits a record, timeline << 2 | number of the commit (0: no commit) */
byte ln[N];		/* its length, and the timeline of its last record */
byte tl[N];

/* --- what it has in memory ---------------------------------------------------------------------------------------- */
bit auth[N];		/* made the swap of epoch vE itself, and has not stopped since (S11) */
byte src[N];		/* primary_conninfo: instance + 1 */
byte t[N];		/* candidate: the epoch it asks promises for; 0: none */
bit bv[N];		/* the Lease that it read for this is still the newest version */
byte votes[N];		/* members that promised t to it, by bit */
byte pend[N];		/* a write on its way to the API server, answer unknown */
byte pendT[N];
short pendR[N];
short rule[N];		/* a primary's names, as a new session shows them */
bit flag[N];		/* what backends look at: the checkpointer's flag "somebody is named" (S5) */
short wr[N*N];		/* per WAL sender: the names that it follows (S6) */
byte fl[N*N];		/* per WAL sender: flushed length + 1 as its primary knows; 0: never connected */
byte rec[N];		/* primary: length with the record written after the start */
byte ck[N];		/* the change under way, its step, its target */
byte cs[N];
short ct[N];
byte cb[N];		/* barrier: length with its record */
byte np[N];		/* length when the names were last set */

/* --- what only the observer knows --------------------------------------------------------------------------------- */
byte holderOf[EPOCHS+1] ;
byte claimOf[EPOCHS+1];
byte tlUsed = 2;	/* timelines that exist, by bit */
byte nw = 0;
byte wpos[WRITES+1];
byte went[WRITES+1];
byte wby[WRITES+1];	/* instance + 1 whose backend still waits with it */
byte acked = 0;		/* bits */
byte crashes = CRASHES;
byte deaths = DEATHS;
byte dead = 0;
byte changes = CHANGES;
byte late = LATE;
byte losses = LOSSES;
byte switches = SWITCHES;
byte rollbacks = ROLLBACKS;
hidden byte x, y, z;

#define NONE 0
#define ADD 1
#define REMOVE 2
#define RAISE 3
#define LOWER 4
#define TOALONE 5
#define TOQUORUM 6
#define SWITCH 7
/* kinds of pending writes */
#define P_RULE 1
#define P_TAKE 2
#define P_RECLAIM 3
#define P_HEIR 4
#define P_INHERIT 5

#define MASK(r) ((r) & ((1 << NM) - 1))
#define KOF(r) ((r) >> NM)
#define RULE(s, k) ((s) | ((k) << NM))
#ifdef M_NAMES_NOT_MEMORIES
#define MEM(i) (i)
#else
#define MEM(i) ((i) + N * inc[i])
#endif
#define BIT(i) (1 << MEM(i))
#define IN(i, r) (((r) & BIT(i)) != 0)	/* k is above the members' bits */
#define B1(m, b) (((m) >> (b)) & 1)
#if NM <= 3
#define CNT(m) (B1(m,0)+B1(m,1)+B1(m,2))
#elif NM == 5
#define CNT(m) (B1(m,0)+B1(m,1)+B1(m,2)+B1(m,3)+B1(m,4))
#elif NM == 6
#define CNT(m) (B1(m,0)+B1(m,1)+B1(m,2)+B1(m,3)+B1(m,4)+B1(m,5))
#else
#error too many members
#endif
#define VOTERS(r) CNT(r)
#ifdef M_QUORUM_SHORT
#define ELECT(r) (VOTERS(r) - KOF(r))
#else
#define ELECT(r) (VOTERS(r) - KOF(r) + 1)
#endif
#define ENTRIES(n) ((1 << (5 * (n))) - 1)
#define PREFIX(i, j) (ln[i] <= ln[j] && (L[j] & ENTRIES(ln[i])) == L[i])
#define ENTRY(i, p) ((L[i] >> (5 * ((p) - 1))) & 31)
#define TL(i) tl[i]
#ifdef M_LSN_ONLY
#define POS(i) (ln[i])
#else
#define POS(i) (TL(i) * 16 + ln[i])
#endif
#ifndef MAXLEN
#define MAXLEN 6
#endif
#define HAS(i, w) (wpos[w] <= ln[i] && ENTRY(i, wpos[w]) == went[w])
#define LOST(i, w) (B1(acked, w) && !HAS(i, w))
#if WRITES > 2
#define LOSES(i) (LOST(i, 1) || LOST(i, 2) || LOST(i, 3))
#elif WRITES > 1
#define LOSES(i) (LOST(i, 1) || LOST(i, 2))
#else
#define LOSES(i) LOST(i, 1)
#endif
#define NODE(m) ((m) % N)
#define H NODE(l_holder)
#define FL(i, j) fl[(i)*N+(j)]
#define WR(i, j) wr[(i)*N+(j)]
#define F1(i, j, r, p) (IN(j, r) && FL(i, j) > (p))
#if N == 3
#define FLUSHED(i, r, p) (F1(i,0,r,p)+F1(i,1,r,p)+F1(i,2,r,p))
#define BEATS(w, x, v) (((v) & BIT(x)) == 0 || (COUNTED_BUSY && st[x] == BUSY) || POS(w) >= POS(x))
#define BEST(w, v) (BEATS(w,0,v) && BEATS(w,1,v) && BEATS(w,2,v))
#define MAX2(a, b) ((a) > (b) -> (a) : (b))
#define HEARD MAX2(prom[0], MAX2(prom[1], prom[2]))
#define RELEASE(i, p) (REL(i,0,p) || REL(i,1,p) || REL(i,2,p))
#define STREAMS(i, r) (S1(i,0,r)+S1(i,1,r)+S1(i,2,r))
#define PAIRS(A) A(0) A(1) A(2)
#define LACKING(w) (LACKS(0,w) + LACKS(1,w) + LACKS(2,w))
#define SUM(C) (C(0) + C(1) + C(2))
#else
#define FLUSHED(i, r, p) (F1(i,0,r,p)+F1(i,1,r,p)+F1(i,2,r,p)+F1(i,3,r,p)+F1(i,4,r,p))
#define BEATS(w, x, v) (((v) & BIT(x)) == 0 || (COUNTED_BUSY && st[x] == BUSY) || POS(w) >= POS(x))
#define BEST(w, v) (BEATS(w,0,v) && BEATS(w,1,v) && BEATS(w,2,v) && BEATS(w,3,v) && BEATS(w,4,v))
#define MAX2(a, b) ((a) > (b) -> (a) : (b))
#define HEARD MAX2(prom[0], MAX2(prom[1], MAX2(prom[2], MAX2(prom[3], prom[4]))))
#define RELEASE(i, p) (REL(i,0,p) || REL(i,1,p) || REL(i,2,p) || REL(i,3,p) || REL(i,4,p))
#define STREAMS(i, r) (S1(i,0,r)+S1(i,1,r)+S1(i,2,r)+S1(i,3,r)+S1(i,4,r))
#define PAIRS(A) A(0) A(1) A(2) A(3) A(4)
#define LACKING(w) (LACKS(0,w) + LACKS(1,w) + LACKS(2,w) + LACKS(3,w) + LACKS(4,w))
#define SUM(C) (C(0) + C(1) + C(2) + C(3) + C(4))
#endif
/* A WAL sender lets go who waits, by the names that it follows itself, when it is one of them. */
#define REL(i, j, p) (FL(i,j) > 0 && IN(j, WR(i,j)) && FLUSHED(i, WR(i,j), p) >= KOF(WR(i,j)))
#define S1(i, j, r) (IN(j, r) && st[j] == STANDBY && src[j] == i + 1 && FL(i, j) > 0)

#define ALIVE(i) (B1(dead, i) == 0)
#define HOLDS(i) (holderOf[vE[i]] == MEM(i))	/* by the Lease that it knows */
#define FRESH(i) (vE[i] == l_epoch && kr[i] == l_rule)

/* Any write of the Lease: what others read or sent before it is void. */
inline written() {
	x = 0;
	do :: x < N -> bv[x] = 0; pend[x] = 0; pendT[x] = 0; pendR[x] = 0; x++ :: else -> break od
}
inline forget_attempt(i) { t[i] = 0; bv[i] = 0; votes[i] = 0 }
inline forget_change(i) { ck[i] = 0; cs[i] = 0; ct[i] = 0; cb[i] = 0 }
/* No primary any more: who waited gets no answer, its WAL senders are gone. */
inline ends(i) {
	x = 0;
	do :: x < N -> FL(i, x) = 0; WR(i, x) = 0; x++ :: else -> break od;
	x = 1;
	do :: x <= WRITES -> if :: wby[x] == i + 1 -> wby[x] = 0 :: else fi; x++ :: else -> break od;
	rule[i] = 0; flag[i] = 0; rec[i] = 0; np[i] = 0; forget_change(i)
}
inline learned(i) {
	if
	:: vE[i] != l_epoch ->
		auth[i] = 0; forget_attempt(i);
		if :: ck[i] == SWITCH && st[i] != PRIMARY -> forget_change(i) :: else fi	/* a hand-over belongs to its epoch */
	:: else
	fi;
	vE[i] = l_epoch; kr[i] = l_rule
}
/* A swap that changes the epoch: one holder each, and the holder has all that was acknowledged. */
inline swapped(e, m) {
	assert(e > l_epoch);
	if :: holderOf[e] != 255 -> printf("epoch %d has two holders\n", e); assert(false) :: else fi;
	holderOf[e] = m;
	l_epoch = e; l_holder = m; l_heir = 0; l_clean = 0; top = MAX2(top, e);
	if :: LOSES(NODE(m)) -> printf("LOST: %c leads epoch %d without an acknowledged commit\n", 65 + NODE(m), e); assert(false) :: else fi;
	written()
}
inline take_over(w, e) {
	/* S' = (S + old holder) - winner, same k (S2) */
#ifdef M_SPRIME_RESPONDERS
	y = 0; z = 0;
	do :: z < NM -> if :: B1(votes[w], z) && z != MEM(w) -> y = y | (1 << z) :: else fi; z++ :: else -> break od;
	if :: y == 0 -> y = 1 << l_holder :: else fi;
	l_rule = RULE(y, (KOF(l_rule) < CNT(y) -> KOF(l_rule) : CNT(y)));
#else
	l_rule = RULE((MASK(l_rule) | (1 << l_holder)) & ~BIT(w), KOF(l_rule));
#endif
	l_claim = MAX2(l_claim, TL(w)) + 1;
	claimOf[e] = l_claim;
	swapped(e, MEM(w))
}
inline append(i, v) { L[i] = L[i] | ((v) << (5 * ln[i])); ln[i] = ln[i] + 1; tl[i] = (v) >> 2 }
inline named(i, r) {
	rule[i] = r; np[i] = ln[i];
	if :: r == 0 -> flag[i] = 0 :: else fi;	/* back to nobody: sooner is worse */
	x = 0;	/* reload: WAL senders follow when they come round */
}

/* --- clients and streams ------------------------------------------------------------------------------------------ */
inline write(i) {
	d_step { st[i] == PRIMARY && nw < WRITES && ln[i] < MAXLEN && ck[i] != SWITCH ->
		nw++; wpos[nw] = ln[i] + 1; went[nw] = (TL(i) << 2) | nw; wby[nw] = i + 1;
		append(i, went[nw]);
		printf("%c: client writes %d (timeline %d)\n", 65 + i, nw, TL(i)) }
}
inline ack(i, w) {
	d_step { w <= nw && wby[w] == i + 1 && (flag[i] == 0 || RELEASE(i, wpos[w])) ->
		wby[w] = 0; acked = acked | (1 << w);
		printf("%c: write %d acknowledged\n", 65 + i, w);
		if :: l_epoch == top && LOSES(NODE(l_holder)) -> printf("LOST: acknowledged, and %c, who holds epoch %d, lacks it\n", 65 + NODE(l_holder), l_epoch); assert(false) :: else fi }
}
/* The checkpointer sets the flag some time after the names were shown (S5). */
inline checkpointer(i) {
	d_step { st[i] == PRIMARY && rule[i] != 0 && flag[i] == 0 -> flag[i] = 1; printf("%c: backends wait by the names now\n", 65 + i) }
}
inline reload(i, j) {
	d_step { st[i] == PRIMARY && FL(i, j) > 0 && WR(i, j) != rule[i] -> WR(i, j) = rule[i]; printf("%c: WAL sender of %c follows the new names\n", 65 + i, 65 + j) }
}
inline connect(i, j) {	/* i streams from j */
	d_step { src[i] == j + 1 && (st[i] == STANDBY || st[i] == BUSY) && st[j] == PRIMARY && FL(j, i) == 0 && PREFIX(i, j) ->
		FL(j, i) = ln[i] + 1; WR(j, i) = rule[j];
		printf("%c: streams from %c\n", 65 + i, 65 + j) }
}
inline stream(i, j) {
	d_step { src[i] == j + 1 && (st[i] == STANDBY || st[i] == BUSY) && st[j] == PRIMARY && FL(j, i) > 0 && ln[i] < ln[j] && PREFIX(i, j) ->
		y = ENTRY(j, ln[i] + 1); append(i, y);
		FL(j, i) = ln[i] + 1;
		/* The reply to a record that was written after the signal is read in a later turn of the sender's loop,
		 * which began by reloading: so who flushed such a record follows the new names (S6). */
		if :: ln[i] > np[j] -> WR(j, i) = rule[j] :: else fi;
		if :: st[i] == BUSY && TL(i) == TL(j) && ln[i] >= rec[j] -> st[i] = STANDBY; printf("%c: is consistent\n", 65 + i) :: else fi;
		printf("%c: flushes record %d of %c\n", 65 + i, ln[i], 65 + j) }
}

/* In a liveness configuration promises are heard in the end, nobody stands without a reason and a pre-vote of enough
 * voters (L2), nor beside another candidate (it has 0.8 s); without one anybody may stand at any time. */
#ifdef LIVENESS
#define UNHEARD 0
#define LEADER_GONE (vE[H] != l_epoch || (st[H] != PRIMARY && !auth[H]))	/* one that was just elected beats */
#define CAN(j) (IN(j, l_rule) && st[j] == STANDBY)
#define PREVOTE (LEADER_GONE && SUM(CAN) >= ELECT(l_rule))
#ifdef M_SELF_PROMISE_FIRST
#define REASON(i) (OTHERS_STAND == 0)
#else
#define REASON(i) (PREVOTE && OTHERS_STAND == 0)
#endif
#define STANDS(j) (t[j] > 0)
#define OTHERS_STAND SUM(STANDS)
#define STILL(j) (IN(j, l_rule) && st[j] == STANDBY && prom[j] <= t[i] && t[i] > vE[j])
#define HOPELESS (SUM(STILL) < ELECT(l_rule))
#else
#define UNHEARD 1
#define REASON(i) 1
#define HOPELESS 0
#define PREVOTE 1
#endif
/* An older Lease than any member knows is void (L7). Asking the members is the rule; knowing by oneself is not enough. */
#if ROLLBACKS > 0 && !defined(M_ROLLBACK_UNASKED) && !defined(M_ROLLBACK_OBEYED)
#define VOID ((vE[0] > l_epoch) || (vE[1] > l_epoch) || (vE[2] > l_epoch))
#else
#define VOID 0
#endif
/* --- the member's loop -------------------------------------------------------------------------------------------- */
inline learn(i) {	/* an older Lease than known is void (L7) */
#ifdef M_ROLLBACK_OBEYED
	d_step { !FRESH(i) ->
#else
	d_step { l_epoch >= vE[i] && !FRESH(i) && ALIVE(i) ->
#endif
		learned(i); printf("%c: sees epoch %d\n", 65 + i, vE[i]) }
}
inline depose(i) {
	d_step { st[i] == PRIMARY && !HOLDS(i) -> st[i] = DOWN; ends(i); src[i] = 0; printf("%c: deposed\n", 65 + i) }
}
inline start_standby(i) {
	d_step { ALIVE(i) && (st[i] == DOWN || st[i] == DOWNP) && (!HOLDS(i) || (auth[i] && TL(i) < claimOf[vE[i]])) ->
		st[i] = STANDBY; src[i] = 0; printf("%c: starts as a standby\n", 65 + i) }
}
inline start_primary(i) {
#ifdef M_RECLAIM_WITHOUT_SWAP
	d_step { st[i] == DOWNP && HOLDS(i) && TL(i) == claimOf[vE[i]] ->
#else
	d_step { st[i] == DOWNP && HOLDS(i) && auth[i] && TL(i) == claimOf[vE[i]] ->
#endif
		if :: !auth[i] -> printf("%c: starts as a primary without a swap of its own (S11)\n", 65 + i); assert(false) :: else fi;
		st[i] = PRIMARY; rule[i] = kr[i]; flag[i] = (kr[i] != 0); rec[i] = ln[i]; src[i] = 0;
		printf("%c: starts as the primary of epoch %d\n", 65 + i, vE[i]) }
}
inline promote(i) {
	d_step { st[i] == STANDBY && HOLDS(i) && auth[i] && prom[i] <= vE[i] && TL(i) < claimOf[vE[i]] && ln[i] < MAXLEN ->
		src[i] = 0;
#ifdef M_NO_TOMBSTONES
		z = TL(i) + 1;
#else
		z = claimOf[vE[i]];
#endif
		if :: B1(tlUsed, z) -> printf("%c: timeline %d exists already\n", 65 + i, z); assert(false) :: else fi;
		tlUsed = tlUsed | (1 << z);
		append(i, z << 2);
		st[i] = PRIMARY; rec[i] = ln[i];
#ifdef M_EMPTY_NAMES
		rule[i] = 0; flag[i] = 0;
#else
		rule[i] = kr[i]; flag[i] = (kr[i] != 0);
#endif
		printf("%c: promoted in epoch %d, timeline %d\n", 65 + i, vE[i], z) }
}
#ifdef M_NO_RECLAIM
#define RECLAIMS 0
#else
#define RECLAIMS 1
#endif
/* Whoever the Lease names may go on above every promise (L1). It may have heard of any of them, or of none. */
inline reclaim(i, e) {
	d_step { RECLAIMS && !VOID && ALIVE(i) && l_holder == MEM(i) && FRESH(i) && e > l_epoch && e <= EPOCHS && (e == MAX2(l_epoch, HEARD) + 1 || (UNHEARD && e == l_epoch + 1)) &&
			(!auth[i] || HEARD > l_epoch) && pend[i] == 0 && ck[i] == 0 ->
		claimOf[e] = claimOf[l_epoch];
		swapped(e, MEM(i));
		learned(i); auth[i] = 1; prom[i] = MAX2(prom[i], e);
		printf("%c: reclaims as epoch %d\n", 65 + i, e) }
}
/* Whom the Lease names, when nothing above its epoch is promised; PostgreSQL checks that the WAL fits (PREFIX). */
inline attach(i) {
	d_step { (st[i] == STANDBY || st[i] == BUSY) && !HOLDS(i) && prom[i] <= vE[i] && src[i] != NODE(holderOf[vE[i]]) + 1 &&
			(st[i] == BUSY || PREFIX(i, NODE(holderOf[vE[i]]))) ->
		src[i] = NODE(holderOf[vE[i]]) + 1; printf("%c: attaches to %c, epoch %d\n", 65 + i, 64 + src[i], vE[i]) }
}
inline rewind(i, j) {	/* to the line of j */
	d_step { st[i] == STANDBY && holderOf[vE[i]] == MEM(j) && j != i && st[j] == PRIMARY && HOLDS(j) && prom[i] <= vE[i] &&
#ifndef M_REWIND_UNCONFIRMED
			/* out of S, or k others hold the new timeline, or they are away and the holder is not (S3) */
			(!IN(i, kr[j]) || VOTERS(kr[j]) - 1 < KOF(kr[j]) || FLUSHED(j, kr[j] & ~BIT(i), rec[j]) >= KOF(kr[j]) ||
			    STREAMS(j, kr[j] & ~BIT(i)) < KOF(kr[j])) &&
#endif
			!PREFIX(i, j) ->
		do :: !PREFIX(i, j) -> ln[i] = ln[i] - 1; L[i] = L[i] & ENTRIES(ln[i]) :: else -> break od;
		tl[i] = ENTRY(i, ln[i]) >> 2;
		x = 0;
		do :: x < N -> FL(x, i) = 0; WR(x, i) = 0; x++ :: else -> break od;
		st[i] = BUSY; src[i] = j + 1; forget_attempt(i);
		printf("%c: rewinds to %c, %d records left\n", 65 + i, 65 + j, ln[i]) }
}

/* --- faults ------------------------------------------------------------------------------------------------------- */
inline crash(i) {
	d_step { crashes > 0 && st[i] != DOWN && st[i] != DOWNP ->
		crashes--;
		if :: st[i] == PRIMARY -> st[i] = DOWNP; ends(i) :: st[i] == STANDBY -> st[i] = DOWN :: else fi;
		src[i] = 0; auth[i] = 0; forget_attempt(i);
#ifdef M_FORGOTTEN_PROMISE
		prom[i] = 0;
#endif
		printf("%c: crashes\n", 65 + i) }
}
inline die(i) {
	d_step { deaths > 0 && (st[i] == DOWN || st[i] == DOWNP) && pend[i] == 0 -> deaths--; dead = dead | (1 << i); printf("%c: stays away\n", 65 + i) }
}
#ifdef M_CANARY_WAITS
inline canary(i) {	/* a commit of the canary's own that waits for voters, and fences when it does not end */
	d_step { st[i] == PRIMARY && HOLDS(i) && kr[i] != 0 && STREAMS(i, kr[i]) < KOF(kr[i]) ->
		st[i] = DOWNP; ends(i); auth[i] = 0; printf("%c: canary fences it\n", 65 + i) }
}
#endif
inline agent_restart(i) {
	d_step { crashes > 0 && (st[i] == STANDBY || st[i] == PRIMARY) && (auth[i] || t[i] || ck[i]) ->
		crashes--; auth[i] = 0; forget_attempt(i); forget_change(i);
		printf("%c: agent restarts\n", 65 + i) }
}
/* A volume is lost, or was cloned anew: from whom does not matter, for nothing of it may count. The promise is gone too. */
inline lose_volume(i, j) {
	d_step { losses > 0 && inc[i] == 0 && l_holder != MEM(i) && holderOf[vE[i]] != MEM(i) && (st[j] == STANDBY || st[j] == PRIMARY) && i != j ->
		losses--;
		x = 0;
		do :: x < N -> FL(x, i) = 0; WR(x, i) = 0; FL(i, x) = 0; WR(i, x) = 0; votes[x] = votes[x] & ~BIT(i); x++ :: else -> break od;
		ends(i);
		inc[i] = 1; prom[i] = 0; forget_attempt(i); auth[i] = 0;
		L[i] = L[j]; ln[i] = ln[j]; tl[i] = tl[j]; st[i] = STANDBY; src[i] = 0; vE[i] = l_epoch; kr[i] = l_rule;
		printf("%c: volume lost, copied from %c as a new incarnation\n", 65 + i, 65 + j) }
}
inline land(i) {	/* a write whose answer was lost arrives, and nothing was written since it was derived */
	d_step { pend[i] == P_RULE -> l_rule = pendR[i]; l_heir = 0; l_clean = 0; written(); printf("late write of %c lands: new voters\n", 65 + i) }
}
inline land_take(i) {
	d_step { pend[i] == P_TAKE -> y = pendT[i]; take_over(i, y); printf("late write of %c lands: epoch %d\n", 65 + i, l_epoch) }
}
inline rollback() {
	d_step { rollbacks > 0 && l_epoch > 1 ->
		rollbacks--; l_epoch = 1; l_holder = 0; l_rule = kr0; l_claim = 1; l_heir = 0; l_clean = 0; written();
		printf("the API server's store is restored: epoch 1\n") }
}

/* --- an election -------------------------------------------------------------------------------------------------- */
#define VOTER(i) (st[i] == STANDBY || (COUNTED_BUSY && st[i] == BUSY))
#ifdef M_COUNT_INCOMPLETE
#define COUNTED_BUSY 1
#else
#define COUNTED_BUSY 0
#endif
inline stand(i, e) {
	d_step { !VOID && st[i] == STANDBY && l_epoch >= vE[i] && IN(i, l_rule) && l_rule != 0 && t[i] == 0 && pend[i] == 0 && e <= EPOCHS &&
			e > l_epoch && e > prom[i] && (e == MAX2(l_epoch, HEARD) + 1 || (UNHEARD && e == MAX2(l_epoch, prom[i]) + 1)) && REASON(i) ->
		if :: !PREVOTE && src[i] -> printf("%c: cuts itself off, and no quorum suspects\n", 65 + i); assert(false) :: else fi;
		learned(i);
		t[i] = e; bv[i] = 1; votes[i] = 0;
#ifdef M_CAS_IGNORES_VOTERS
		bR[i] = l_rule;
#endif
		printf("%c: stands for epoch %d\n", 65 + i, e) }
}
inline give_up(i) {
	d_step { t[i] > 0 && (!bv[i] || prom[i] > t[i] || HOPELESS) -> forget_attempt(i) }
}
inline promise(i, j) {	/* j promises t of i */
	d_step { t[i] > 0 && VOTER(j) && IN(j, l_rule) && (votes[i] & BIT(j)) == 0 && prom[j] <= t[i] && t[i] > vE[j] && !(j == i && st[j] == BUSY) ->
		prom[j] = t[i]; votes[i] = votes[i] | BIT(j);
#ifdef M_NO_CUT
		skip;
#elif defined(M_VIEW_NOT_PROCESS)
		if :: src[j] && FL(src[j] - 1, j) > 0 -> src[j] = 0 :: else fi;
#else
		src[j] = 0;
#endif
		printf("%c: promises epoch %d to %c, timeline %d, %d records\n", 65 + j, t[i], 65 + i, TL(j), ln[j]) }
}
#ifdef M_CAS_IGNORES_VOTERS
short bR[N];
#define BASE(i) (t[i] > 0 && l_epoch == vE[i])
#define BRULE(i) bR[i]
#else
#define BASE(i) (bv[i])
#define BRULE(i) l_rule
#endif
#define MAY_TAKE(i, w) (t[i] > 0 && BASE(i) && CNT(votes[i] & BRULE(i)) >= ELECT(BRULE(i)) && (votes[i] & BIT(w)) && st[w] == STANDBY && \
	BEST(w, votes[i]) && prom[w] == t[i] && l_epoch >= vE[w] && IN(w, BRULE(i)) && pend[w] == 0)
inline take(i, w) {	/* by itself, or by the one that promised it and has most (hand-over) */
	d_step { MAY_TAKE(i, w) ->
		y = t[i]; votes[w] = votes[i];
#ifdef M_CAS_IGNORES_VOTERS
		l_rule = bR[i];
#endif
		printf("%c: takes epoch %d\n", 65 + w, y);
		take_over(w, y);
		if :: w != i -> forget_attempt(i) :: else fi;
		learned(w); forget_attempt(w); auth[w] = 1 }
}
inline take_late(i, w) {
	d_step { late > 0 && MAY_TAKE(i, w) ->
		late--; pend[w] = P_TAKE; pendT[w] = t[i]; z = votes[i]; forget_attempt(i); votes[w] = z; t[w] = 0;
		printf("%c: sends its takeover of epoch %d, no answer comes\n", 65 + w, pendT[w]) }
}

/* --- changes of the voters ---------------------------------------------------------------------------------------- */
#define LEADS(i) (st[i] == PRIMARY && HOLDS(i) && ck[i] == 0 && prom[i] <= vE[i] && changes > 0 && pend[i] == 0 && rule[i] == kr[i])
#define STREAMING(i, j) (st[j] == STANDBY && src[j] == i + 1 && FL(i, j) > 0)
inline begin(i, kind, target) { changes--; ck[i] = kind; cs[i] = 1; ct[i] = target }
inline want_add(i, j) {
	d_step { LEADS(i) && j != i && kr[i] != 0 && !IN(j, kr[i]) && STREAMING(i, j) ->
		begin(i, ADD, kr[i] | BIT(j)); printf("%c: add %c\n", 65 + i, 65 + j) }
}
inline want_remove(i, m) {	/* m: any voter, also a dead incarnation */
	d_step { LEADS(i) && (kr[i] & (1 << m)) && VOTERS(kr[i]) - 1 >= KOF(kr[i]) ->
		begin(i, REMOVE, kr[i] & ~(1 << m)); printf("%c: remove voter %d\n", 65 + i, m) }
}
inline want_raise(i) {
	d_step { LEADS(i) && kr[i] != 0 && KOF(kr[i]) < VOTERS(kr[i]) && KOF(kr[i]) < KMAX ->
		begin(i, RAISE, RULE(MASK(kr[i]), KOF(kr[i]) + 1)); printf("%c: raise k\n", 65 + i) }
}
inline want_lower(i) {
	d_step { LEADS(i) && KOF(kr[i]) > 1 ->
		begin(i, LOWER, RULE(MASK(kr[i]), KOF(kr[i]) - 1)); printf("%c: lower k\n", 65 + i) }
}
inline want_alone(i) {
	d_step { LEADS(i) && kr[i] != 0 -> begin(i, TOALONE, 0); printf("%c: go on alone\n", 65 + i) }
}
inline want_quorum(i, s) {	/* s: instances; all stream */
	d_step { LEADS(i) && kr[i] == 0 && B1(s, i) == 0 && (B1(s,0) == 0 || STREAMING(i,0)) && (B1(s,1) == 0 || STREAMING(i,1)) && (B1(s,2) == 0 || STREAMING(i,2)) ->
		y = 0; z = 0;
		do :: z < N -> if :: B1(s, z) -> y = y | BIT(z) :: else fi; z++ :: else -> break od;
		begin(i, TOQUORUM, RULE(y, 1)); printf("%c: return to quorum\n", 65 + i) }
}
/* The rows' steps: 1 names nobody and probe, 2 names, 3 barrier, 4 Lease, 5 names after the Lease. */
#define ROW_STARTS_WITH_LEASE(c) (c == ADD || c == LOWER || c == TOALONE)
#ifdef M_ADD_NAMES_FIRST
#define NAMES_FIRST_ADD 1
#else
#define NAMES_FIRST_ADD 0
#endif
#ifdef M_DEGRADE_NAMES_FIRST
#define NAMES_FIRST_ALONE 1
#else
#define NAMES_FIRST_ALONE 0
#endif
#ifdef M_LOWER_NAMES_FIRST
#define NAMES_FIRST_LOWER 1
#else
#define NAMES_FIRST_LOWER 0
#endif
#ifdef M_UPGRADE_LEASE_FIRST
#define LEASE_FIRST_QUORUM 1
#else
#define LEASE_FIRST_QUORUM 0
#endif
#ifdef M_REMOVE_LEASE_FIRST
#define LEASE_FIRST_REMOVE 1
#else
#define LEASE_FIRST_REMOVE 0
#endif
#ifdef M_RAISE_LEASE_FIRST
#define LEASE_FIRST_RAISE 1
#else
#define LEASE_FIRST_RAISE 0
#endif
#define LEASE_FIRST(c) ((c == ADD && !NAMES_FIRST_ADD) || (c == LOWER && !NAMES_FIRST_LOWER) || (c == TOALONE && !NAMES_FIRST_ALONE) || \
	(c == REMOVE && LEASE_FIRST_REMOVE) || (c == RAISE && LEASE_FIRST_RAISE) || (c == TOQUORUM && LEASE_FIRST_QUORUM))
#define NAMES_ONLY(c) ((c == ADD && NAMES_FIRST_ADD) || (c == LOWER && NAMES_FIRST_LOWER) || (c == TOALONE && NAMES_FIRST_ALONE))
#if defined(M_UPGRADE_NO_BARRIER)
#define NEEDS_BARRIER(c) (c == REMOVE || c == RAISE)
#elif defined(M_REMOVE_NO_BARRIER)
#define NEEDS_BARRIER(c) (c == TOQUORUM || c == RAISE)
#else
#define NEEDS_BARRIER(c) (c == TOQUORUM || c == REMOVE || c == RAISE)
#endif
#define CHANGING(i) (ck[i] > 0 && ck[i] < SWITCH && st[i] == PRIMARY)
inline step_nobody(i) {	/* names that nobody has, until a commit is seen waiting */
	d_step { CHANGING(i) && cs[i] == 1 && ck[i] == TOQUORUM && !LEASE_FIRST(TOQUORUM) && rule[i] == 0 -> named(i, RULE(0, 1)); printf("%c: names nobody\n", 65 + i) }
}
#ifdef M_SHOW_NOT_FLAG
#define PROBED(i) 1
#else
#define PROBED(i) flag[i]
#endif
inline step_names(i) {
	d_step { CHANGING(i) && cs[i] == 1 && !LEASE_FIRST(ck[i]) && (ck[i] != TOQUORUM || (rule[i] != 0 && PROBED(i))) && ln[i] < MAXLEN ->
		named(i, ct[i]);
		if
		:: NEEDS_BARRIER(ck[i]) -> append(i, TL(i) << 2); cb[i] = ln[i]; cs[i] = 3
		:: else -> cs[i] = 4
		fi;
		printf("%c: new names\n", 65 + i) }
}
/* Two rounds. What a sender let go by the old names before it reloaded lies below the second record; so whoever did not
 * pass the first round must be gone before the second record is written, not after (S6). */
inline end_slow(i) {
	x = 0;
	do
	:: x < N ->
		if :: FL(i, x) > 0 && FL(i, x) <= cb[i] -> FL(i, x) = 0; WR(i, x) = 0 :: else fi; x++
	:: else -> break
	od
}
inline step_barrier(i) {
	d_step { CHANGING(i) && cs[i] == 3 && FLUSHED(i, ct[i], cb[i]) >= KOF(ct[i]) && ln[i] < MAXLEN ->
#ifdef M_ONE_ROUND
		cs[i] = 4; end_slow(i); cb[i] = 0;
		printf("%c: barrier passed\n", 65 + i)
#else
#ifndef M_END_LAST
		end_slow(i);
#endif
		append(i, TL(i) << 2); cb[i] = ln[i]; cs[i] = 6;
		printf("%c: barrier, first round passed\n", 65 + i)
#endif
	}
}
inline step_barrier2(i) {
	d_step { CHANGING(i) && cs[i] == 6 && FLUSHED(i, ct[i], cb[i]) >= KOF(ct[i]) ->
#ifdef M_END_LAST
		end_slow(i);
#endif
		cs[i] = 4; cb[i] = 0;
		printf("%c: barrier passed\n", 65 + i) }
}
inline step_lease(i) {
	d_step { CHANGING(i) && (cs[i] == 4 || (cs[i] == 1 && LEASE_FIRST(ck[i]))) && FRESH(i) && l_holder == MEM(i) ->
		l_rule = ct[i]; l_heir = 0; l_clean = 0; kr[i] = l_rule; written();
		if :: LEASE_FIRST(ck[i]) -> cs[i] = 5 :: else -> forget_change(i) fi;
		printf("%c: Lease has the new voters\n", 65 + i) }
}
inline step_lease_late(i) {	/* no answer: the change is broken off, the write may still land */
	d_step { late > 0 && CHANGING(i) && (cs[i] == 4 || (cs[i] == 1 && LEASE_FIRST(ck[i]))) && FRESH(i) && l_holder == MEM(i) ->
		late--; pend[i] = P_RULE; pendR[i] = ct[i]; forget_change(i);
		printf("%c: sends the new voters, no answer comes\n", 65 + i) }
}
inline step_after(i) {
	d_step { CHANGING(i) && cs[i] == 5 && HOLDS(i) -> named(i, ct[i]); forget_change(i); printf("%c: new names\n", 65 + i) }
}
inline step_broken_off(i) {	/* another version of the Lease, or a time-out */
	d_step { CHANGING(i) && (!FRESH(i) || cs[i] == 3 || cs[i] == 6) -> forget_change(i); printf("%c: change broken off\n", 65 + i) }
}
/* Names that differ from the Lease are put back, after a write that makes an own late one void (S9). */
inline put_back(i) {
	d_step { st[i] == PRIMARY && HOLDS(i) && ck[i] == 0 &&
#ifndef M_NO_RENEWAL
			FRESH(i) && l_holder == MEM(i) &&
#endif
			rule[i] != kr[i] ->
#ifndef M_NO_RENEWAL
		pend[i] = 0; pendT[i] = 0; pendR[i] = 0;
#endif
		named(i, kr[i]); printf("%c: names as the Lease says\n", 65 + i) }
}

/* --- switchover --------------------------------------------------------------------------------------------------- */
inline want_switch(i, j) {
	d_step { switches > 0 && st[i] == PRIMARY && HOLDS(i) && ck[i] == 0 && pend[i] == 0 && STREAMING(i, j) && IN(j, kr[i]) && ln[i] < MAXLEN ->
		switches--; ck[i] = SWITCH; cs[i] = 1; ct[i] = j; append(i, TL(i) << 2);
		printf("%c: shutdown record, to hand over to %c\n", 65 + i, 65 + j) }
}
inline switch_stop(i) {	/* everything ended, fenced on the disk */
	d_step { ck[i] == SWITCH && cs[i] == 1 && st[i] == PRIMARY -> y = ct[i];
		st[i] = DOWNP; ends(i); auth[i] = 0; ck[i] = SWITCH; cs[i] = 2; ct[i] = y; printf("%c: stopped\n", 65 + i) }
}
inline switch_name(i) {
	d_step { ck[i] == SWITCH && cs[i] == 2 && FRESH(i) && l_holder == MEM(i) ->
		l_heir = MEM(ct[i]) + 1; l_clean = ln[i]; forget_change(i); written(); printf("%c: names its heir\n", 65 + i) }
}
inline switch_broken_off(i) { d_step { ck[i] == SWITCH && cs[i] == 2 -> forget_change(i) } }
inline inherit(i, e) {
	d_step { st[i] == STANDBY && l_heir == MEM(i) + 1 && l_epoch >= vE[i] && e <= EPOCHS && pend[i] == 0 &&
#ifndef M_HEIR_BEHIND
			ln[i] >= l_clean && TL(i) == claimOf[l_epoch] &&
#endif
			(e == MAX2(l_epoch, prom[i]) + 1 || e == MAX2(l_epoch, HEARD) + 1) ->
		prom[i] = e; printf("%c: inherits epoch %d\n", 65 + i, e);
		take_over(i, e); learned(i); forget_attempt(i); auth[i] = 1; src[i] = 0 }
}

short kr0;

#define PAIR(j) \
	:: reload(i, j) \
	:: connect(i, j) \
	:: stream(i, j) \
	:: promise(i, j) \
	:: take(i, j)
#define PAIR_REWIND(j) :: rewind(i, j)
#define PAIR_LATE(j) :: take_late(i, j)
#define PAIR_CHANGE(j) :: want_add(i, j) :: want_remove(i, j)
#define PAIR_OLD(j) :: want_remove(i, j + N)
#define PAIR_LOSS(j) :: lose_volume(i, j)
#define PAIR_SWITCH(j) :: want_switch(i, j)

proctype Member(byte i) {
	do
	:: write(i)
	:: ack(i, 1)
#if WRITES > 1
	:: ack(i, 2)
#endif
#if WRITES > 2
	:: ack(i, 3)
#endif
	:: learn(i)
	:: depose(i)
	:: start_standby(i)
	:: start_primary(i)
	:: promote(i)
	:: attach(i)
	:: crash(i)
#if DEATHS > 0
	:: die(i)
#endif
#ifdef M_CANARY_WAITS
	:: canary(i)
#endif
	:: agent_restart(i)
#if !defined(STANDERS) || EPOCHS > 9
	:: stand(i, 2)
#else
	:: i == STANDERS -> stand(i, 2)
#endif
	:: reclaim(i, 2)
#if EPOCHS > 2
	:: stand(i, 3)
	:: reclaim(i, 3)
#endif
#if EPOCHS > 3
	:: stand(i, 4)
	:: reclaim(i, 4)
#endif
#if EPOCHS > 4
	:: stand(i, 5)
	:: reclaim(i, 5)
#endif
#if EPOCHS > 5
	:: stand(i, 6)
	:: reclaim(i, 6)
#endif
#if EPOCHS > 6
	:: stand(i, 7)
	:: reclaim(i, 7)
#endif
	:: give_up(i)
	PAIRS(PAIR)
	PAIRS(PAIR_REWIND)
#if LATE > 0
	PAIRS(PAIR_LATE)
	:: land_take(i)
	:: land(i)
#endif
#if CHANGES > 0 || defined(M_EMPTY_NAMES)
	:: checkpointer(i)
	:: put_back(i)
#endif
#if CHANGES > 0
	PAIRS(PAIR_CHANGE)
#if LOSSES > 0
	PAIRS(PAIR_OLD)
#endif
	:: want_raise(i)
	:: want_lower(i)
#ifdef PREFERRED
	:: want_alone(i)
	:: want_quorum(i, 1) :: want_quorum(i, 2) :: want_quorum(i, 3) :: want_quorum(i, 4) :: want_quorum(i, 5) :: want_quorum(i, 6)
#endif
	:: step_nobody(i)
	:: step_names(i)
	:: step_barrier(i)
	:: step_barrier2(i)
	:: step_lease(i)
	:: step_lease_late(i)
	:: step_after(i)
	:: step_broken_off(i)
#endif
#if LOSSES > 0
	PAIRS(PAIR_LOSS)
#endif
#if SWITCHES > 0
	PAIRS(PAIR_SWITCH)
	:: switch_stop(i)
	:: switch_name(i)
	:: switch_broken_off(i)
	:: inherit(i, 2)
#if EPOCHS > 2
	:: inherit(i, 3)
#endif
#if EPOCHS > 3
	:: inherit(i, 4)
#endif
#if EPOCHS > 4
	:: inherit(i, 5)
#endif
#if EPOCHS > 5
	:: inherit(i, 6)
#endif
#if EPOCHS > 6
	:: inherit(i, 7)
#endif
#endif
	od
}

/* I2 in every state, also between the two writes of a change: no k of the names that a sender of the holder follows lie
 * beside |S|-k+1 of the Lease's voters; and nobody is let go by no names at all while the Lease says quorum (I5, I7). */
#define OUTSIDE(r) CNT(l_rule & ~(r))
#define MEETS(r) (VOTERS(r) - (VOTERS(l_rule) - KOF(l_rule) + 1 > OUTSIDE(r) -> VOTERS(l_rule) - KOF(l_rule) + 1 - OUTSIDE(r) : 0) < KOF(r))
/* Every set that can elect has a voter with each acknowledged commit: fewer than |S|-k+1 voters lack it. */
#define LACKS(j, w) (IN(j, l_rule) && !HAS(j, w))
#define ALL_ELECTORS_HAVE(w) (l_rule == 0 || l_epoch < top || B1(acked, w) == 0 || LACKING(w) < VOTERS(l_rule) - KOF(l_rule) + 1)
#define SITS (st[H] == PRIMARY && vE[H] == l_epoch && MEM(H) == l_holder && l_rule != 0)
#define SENDER_MEETS(j) (FL(H, j) == 0 || MEETS(WR(H, j)))
proctype Observer() {
	do
	:: d_step { SITS && flag[H] == 0 -> printf("I7: commits wait for nobody, the Lease says quorum\n"); assert(false) }
#define SENDER(j) :: d_step { SITS && !SENDER_MEETS(j) -> printf("I2: a WAL sender's names and the Lease's voters need not meet\n"); assert(false) }
	PAIRS(SENDER)
	:: d_step { !ALL_ELECTORS_HAVE(1) -> printf("LOST: voters that are enough to elect lack an acknowledged commit\n"); assert(false) }
#if WRITES > 1
	:: d_step { !ALL_ELECTORS_HAVE(2) -> printf("LOST: voters that are enough to elect lack an acknowledged commit\n"); assert(false) }
#endif
#if ROLLBACKS > 0
	:: rollback()
#endif
#ifdef LIVENESS
	:: timeout -> d_step {
		printf("nothing more happens: %c holds epoch %d\n", 65 + H, l_epoch);
		if :: HEARD >= EPOCHS || l_epoch >= EPOCHS -> printf("epochs without end\n"); assert(false) :: else fi;
		if :: ck[H] -> printf("a change stays half done\n"); assert(false) :: else fi;
		if :: st[H] != PRIMARY || vE[H] != l_epoch || rule[H] != l_rule || (l_rule != 0 && FLUSHED(H, l_rule, ln[H]) < KOF(l_rule)) ->
			printf("nobody acknowledges\n"); assert(false)
		:: else
		fi }
		break
#endif
	od
}

init {
	d_step {
		x = 0;
		do
		:: x < N ->
			st[x] = (x == 0 -> PRIMARY : STANDBY); vE[x] = 1; L[x] = 4; ln[x] = 1; tl[x] = 1;
			x++
		:: else -> break
		od;
		x = 0;
		do :: x <= EPOCHS -> holderOf[x] = 255; x++ :: else -> break od;
		holderOf[1] = 0; claimOf[1] = 1;
#ifdef START_ALONE
		l_rule = 0;
#else
		l_rule = RULE((1 << N) - 2, K0);
#endif
#ifdef START_VOTERS
		l_rule = RULE(START_VOTERS, K0);
#endif
		kr0 = l_rule;
		auth[0] = 1; rule[0] = l_rule; flag[0] = (l_rule != 0); rec[0] = 1;
		x = 0;
		do
		:: x < N ->
			kr[x] = l_rule;
			if :: x > 0 -> src[x] = 1; FL(0, x) = 2; WR(0, x) = l_rule :: else fi;
			x++
		:: else -> break
		od
	}
	atomic {
		x = 0;
		do :: x < N -> run Member(x); x++ :: else -> break od;
		run Observer()
	}
}
